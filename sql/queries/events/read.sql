-- events/read: moves a read position forward, tells the member's devices, and returns the position and the time at
-- which it was reached. An older position changes nothing. No row: not a member.
-- $1 convo_id   $2 did   $3 seq, null for the newest entry   $4 id of the entry, or null
with target as (
  select m.last_read_seq, m.last_read_at, least(coalesce($3::bigint, c.last_seq), c.last_seq) as seq
    from members m join conversations c on c.id = m.convo_id
   where m.convo_id = $1 and m.member_did = $2 and m.left_at is null
), moved as (
  update members m set last_read_seq = t.seq, last_read_at = now()
    from target t
   where m.convo_id = $1 and m.member_did = $2 and m.left_at is null and m.last_read_seq < t.seq
  returning m.last_read_seq, m.last_read_at
), told as (
  insert into event_stream (convo_id, recipient_did, event_type, payload)
  select $1, $2, 'read', jsonb_build_object('seq', last_read_seq, 'messageId', $4::text, 'readAt', last_read_at) from moved
)
select coalesce(moved.last_read_seq, target.last_read_seq) as seq,
       coalesce(moved.last_read_at, target.last_read_at, now()) as read_at
  from target left join moved on true

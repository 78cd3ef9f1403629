-- members/join: makes DIDs members that see everything after $3, writes one event for all members, and withdraws
-- Welcomes of earlier memberships. A former member starts again. Returns one row with the state before: the number of
-- members, those DIDs that were members already (they are left as they are), and the withdrawn Welcomes. The cost
-- depends on the list, not on the roster.
-- needs: the conversation, exclusively.
-- $1 convo_id   $2 dids   $3 joined_seq   $4 joined_epoch   $5 DID that added them   $6 whether a Welcome waits for them
with before as (
  select c.member_count as active,
         array(select did from unnest($2::text[]) did
                where (select true from members m where m.convo_id = $1 and m.member_did = did and m.left_at is null)) as present
    from conversations c where c.id = $1
), joined as (
  insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq)
  select $1, did, $3, $4, $3 from unnest($2::text[]) did
  on conflict (convo_id, member_did) do update
     set joined_at = now(), joined_seq = excluded.joined_seq, joined_epoch = excluded.joined_epoch,
         last_read_seq = excluded.last_read_seq, last_read_at = null,
         left_at = null, left_by = null, left_epoch = null, left_seq = null
   where members.left_at is not null
), told as (
  insert into event_stream (convo_id, event_type, payload)
  values ($1, 'joined', jsonb_build_object('dids', $2::text[], 'actor', $5::text, 'epoch', $4::bigint, 'seq', $3::bigint,
                                           'welcome', $6::boolean))
), withdrawn as (
  delete from welcome_messages where convo_id = $1 and recipient_did = any($2) and state = 'available'
  returning welcome_id
)
select active, present, array(select welcome_id from withdrawn) as withdrawn from before

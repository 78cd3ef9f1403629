-- sweeps/logs: moves the beginnings of logs past old entries, never past the newest one, and deletes the application
-- messages among them. Their senders are marked as active. It stops at the first entry that is young enough, so nothing
-- after it is missing.
-- $1 conversations   $2 cutoff   $3 maximum number of entries of each   $4 bytes, after which no further entry is taken
with start as materialized (
  select c.id as convo_id, c.last_seq, coalesce((select s.seq from log_starts s where s.convo_id = c.id), 1) as seq
    from conversations c where c.id = any($1)
), looked as materialized (
  select s.convo_id, m.seq, m.message_type, m.created_at, m.bytes,
         sum(m.bytes) over (order by s.convo_id, m.seq) - m.bytes as before
    from start s
   cross join lateral (select m.seq, m.message_type, m.created_at, octet_length(m.ciphertext) as bytes from messages m
                        where m.convo_id = s.convo_id and m.seq >= s.seq and m.seq < s.last_seq order by m.seq limit $3) m
), bound as materialized (
  select convo_id, coalesce(min(seq) filter (where created_at >= $2), max(seq) + 1) as seq
    from looked where before < $4 group by convo_id
), moved as (
  insert into log_starts (convo_id, seq)
  select b.convo_id, b.seq from bound b join start s on s.convo_id = b.convo_id where b.seq > s.seq order by b.convo_id
  on conflict (convo_id) do update set seq = excluded.seq where log_starts.seq < excluded.seq
  returning convo_id, seq
), gone as (
  delete from messages m using looked e join moved v on v.convo_id = e.convo_id
   where m.convo_id = e.convo_id and m.seq = e.seq and e.message_type = 'app' and e.seq < v.seq
  returning m.convo_id, m.sender_did
), there as (
  update members m set was_there = true from (select distinct convo_id, sender_did from gone) g
   where m.convo_id = g.convo_id and m.member_did = g.sender_did and not m.was_there
)
select (select count(*) from gone) as deleted,
       array(select convo_id from moved union select convo_id from looked where before >= $4) as more

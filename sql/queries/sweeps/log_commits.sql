-- sweeps/log_commits: deletes the bytes of old commits before the beginnings of logs that every active member has read past. What
-- recognises them stays.
-- $1 conversations   $2 most commits of each   $3 bytes, after which no further commit is taken
with log as materialized (
  select s.convo_id, s.seq as start,
         (select min(r.last_read_seq) from members r where r.convo_id = s.convo_id and r.left_at is null) as read
    from log_starts s where s.convo_id = any($1)
), oldest as materialized (
  select l.convo_id, c.seq, sum(c.bytes) over (order by l.convo_id, c.seq) - c.bytes as before
    from log l
   cross join lateral (select c.seq, octet_length(c.ciphertext) as bytes from messages c
                        where c.convo_id = l.convo_id and c.message_type = 'commit' order by c.epoch limit $2) c
   where c.seq < l.start and c.seq <= l.read
), gone as (
  delete from messages m using oldest o
   where m.convo_id = o.convo_id and m.seq = o.seq and o.before < $3
  returning m.convo_id, m.epoch, m.seq, m.sender_did, m.body_hash
), retired as (
  insert into retired_commits (convo_id, epoch, seq, sender_did, body_hash)
  select convo_id, epoch, seq, sender_did, body_hash from gone
)
select (select count(*) from gone) as deleted, array(select distinct convo_id from oldest) as more

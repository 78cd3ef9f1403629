-- sweeps/log_commits: deletes the bytes of old commits before a log's beginning that every active member has read past. What
-- recognises them stays.
-- $1 convo_id   $2 commits
with gone as (
  delete from messages m
   using (select c.seq from messages c
           where c.convo_id = $1 and c.message_type = 'commit' order by c.epoch limit $2) oldest
   where m.convo_id = $1 and m.seq = oldest.seq
     and m.seq < (select s.seq from log_starts s where s.convo_id = $1)
     and m.seq <= (select min(r.last_read_seq) from members r where r.convo_id = $1 and r.left_at is null)
  returning m.epoch, m.seq, m.sender_did, m.body_hash
), retired as (
  insert into retired_commits (convo_id, epoch, seq, sender_did, body_hash)
  select $1, epoch, seq, sender_did, body_hash from gone
)
select count(*) as deleted from gone

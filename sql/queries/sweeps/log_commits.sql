-- sweeps/log_commits: deletes the bytes of old commits before the beginnings of logs, oldest first: those that every
-- current member has read past, and those that are too old to wait for that. The proposals of the epochs that they ended
-- go with them, and those of the last epochs of earlier groups, which a reset ended, as soon as they are before the beginning. The hashes
-- of commits stay, and the senders are marked as active.
-- $1 conversations   $2 maximum number of commits of each   $3 bytes, after which no further commit is taken
-- $4 too old before this, or null
with log as materialized (
  select s.convo_id, s.seq as start,
         (select min(r.last_read_seq) from members r where r.convo_id = s.convo_id and r.left_at is null) as read
    from log_starts s where s.convo_id = any($1)
), oldest as materialized (
  select l.convo_id, c.seq, c.bytes, coalesce(c.seq > l.read, false) as unread,
         bool_and(coalesce(c.seq < l.start and (c.seq <= l.read or c.created_at < $4), false))
           over (partition by l.convo_id order by c.seq) as due
    from log l
   cross join lateral (select c.seq, c.created_at, octet_length(c.ciphertext) as bytes from messages c
                        where c.convo_id = l.convo_id and c.message_type = 'commit' and c.seq < l.start order by c.seq limit $2) c
), due as materialized (
  select convo_id, seq, unread, sum(bytes) over (order by convo_id, seq) - bytes as before from oldest where due
), gone as (
  delete from messages m using due d
   where m.convo_id = d.convo_id and m.seq = d.seq and d.before < $3
  returning m.convo_id, m.generation, m.epoch, m.seq, m.sender_did, m.body_hash, d.unread
), proposals as (
  delete from messages p using gone g where p.convo_id = g.convo_id and p.message_type = 'proposal' and p.generation = g.generation
     and p.epoch = g.epoch - 1
  returning p.convo_id, p.sender_did
), void as (
  delete from messages p using log l, past_groups g
   where g.convo_id = l.convo_id and p.convo_id = l.convo_id and p.message_type = 'proposal' and p.generation = g.generation
     and p.epoch = g.final_epoch and p.seq < l.start
  returning p.convo_id, p.sender_did
), there as (
  update members m set was_there = true
    from (select convo_id, sender_did from gone union select convo_id, sender_did from proposals
           union select convo_id, sender_did from void) g
   where m.convo_id = g.convo_id and m.member_did = g.sender_did and not m.was_there
), retired as (
  insert into retired_commits (convo_id, epoch, seq, sender_did, body_hash, unread)
  select convo_id, epoch, seq, sender_did, body_hash, unread from gone
)
select (select count(*) from gone) + (select count(*) from proposals) + (select count(*) from void) as deleted,
       array(select distinct convo_id from due) as more

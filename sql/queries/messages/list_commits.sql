-- messages/list_commits: returns the commits that create a range of epochs of a generation, ascending, within a number of rows and of
-- bytes of JSON (at least one), each with the proposals of the epoch that it ended, to which it may refer. A commit whose
-- proposals are too large comes without them. It contains only commits and proposals after the reader's join, by this very snapshot, and
-- nothing for callers that are not members. JSON adds base64 and the names of the fields to a commit.
-- $1 convo_id   $2 did of the reader   $3 first epoch   $4 last epoch   $5 rows   $6 bytes of JSON
-- $7 bytes of JSON of the proposals of one commit   $8 generation
with page as (
  select c.convo_id, c.seq, c.epoch, octet_length(c.ciphertext) * 4 / 3 + 1024 + case when p.size <= $7 then p.size else 0 end as size,
         p.size <= $7 as has_proposals
    from messages c
   cross join lateral (select coalesce(sum(octet_length(p.ciphertext) * 4 / 3 + 512), 0) as size from messages p
                        where p.convo_id = c.convo_id and p.message_type = 'proposal' and p.generation = $8 and p.epoch = c.epoch - 1) p
   where c.convo_id = $1 and c.message_type = 'commit' and c.epoch between $3 and $4 and c.generation = $8
     and c.seq > (select joined_seq from members where convo_id = $1 and member_did = $2 and left_at is null)
     -- The same by epoch, so that the index skips what is from before the join.
     and c.epoch > (select case when v.generation = $8 and m.joined_seq >= v.group_seq then m.joined_epoch else 0 end
                      from members m join conversations v on v.id = m.convo_id where m.convo_id = $1 and m.member_did = $2)
   order by c.epoch limit $5
), fitting as (
  select convo_id, seq, has_proposals from (select *, sum(size) over (order by epoch) as total from page) sized
   where total <= $6 or total = size
)
select m.seq, m.id, m.sender_did, m.generation, m.epoch, m.ciphertext, m.created_at, p.seqs, p.senders, p.proposals
  from messages m join fitting f using (convo_id, seq)
 cross join lateral (select array_agg(p.seq order by p.seq) as seqs, array_agg(p.sender_did order by p.seq) as senders,
                            array_agg(p.ciphertext order by p.seq) as proposals
                       from messages p
                      where f.has_proposals and p.convo_id = m.convo_id and p.message_type = 'proposal' and p.generation = $8
                        and p.epoch = m.epoch - 1
                        and p.seq > (select joined_seq from members where convo_id = $1 and member_did = $2)) p
 order by m.epoch

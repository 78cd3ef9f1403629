-- messages/find_commit: returns the generation and position of the sender's commit with the same bytes, whether or not they are
-- stored.
-- $1 convo_id   $2 SHA-256 of the bytes   $3 sender
select generation, epoch, seq from messages
 where convo_id = $1 and body_hash = $2 and sender_did = $3 and message_type = 'commit'
union all
select (select g.generation from convo_groups g where g.convo_id = r.convo_id and r.seq between g.first_seq and g.last_seq), r.epoch, r.seq
  from retired_commits r where r.convo_id = $1 and r.body_hash = $2 and r.sender_did = $3

-- messages/find_commit: returns the position of the sender's commit with the same bytes, whether or not they are
-- stored.
-- $1 convo_id   $2 SHA-256 of the bytes   $3 sender
select epoch, seq from messages
 where convo_id = $1 and body_hash = $2 and sender_did = $3 and message_type = 'commit'
union all
select epoch, seq from retired_commits where convo_id = $1 and body_hash = $2 and sender_did = $3

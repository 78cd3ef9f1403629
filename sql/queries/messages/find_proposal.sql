-- messages/find_proposal: returns the sender's proposal with the same bytes.
-- $1 convo_id   $2 epoch   $3 sender   $4 SHA-256 of the bytes
select id, seq, created_at from messages
 where convo_id = $1 and epoch = $2 and sender_did = $3 and body_hash = $4 and message_type = 'proposal'

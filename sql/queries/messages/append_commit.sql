-- messages/append_commit: one commit, with the epoch that its own framing says it creates.
-- needs: the conversation, exclusively, and the step that epochs/advance made.
-- $1 convo_id   $2 seq   $3 id   $4 sender   $5 epoch it creates   $6 bytes   $7 SHA-256 of the bytes
insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext, body_hash)
values ($1, $2, $3, $4, 'commit', $5, $6, $7)

-- messages/append_commit: appends one commit, with the epoch that its own framing says it creates. No row: this
-- transaction has not moved the conversation, or the sender is not a member.
-- needs: the conversation, exclusively, and the step that epochs/advance made.
-- $1 convo_id   $2 id   $3 sender   $4 epoch it creates   $5 bytes   $6 SHA-256 of the bytes
insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext, body_hash)
select c.id, c.last_seq, $2, $3, 'commit', $4, $5, $6 from conversations c
 where c.id = $1 and c.xmin = pg_current_xact_id()::xid
   and exists (select from members m where m.convo_id = c.id and m.member_did = $3 and m.left_at is null)
returning seq

-- messages/append_app: appends one application message. No row: its sender is not a member.
-- needs: the conversation, exclusively, and the room that epochs/extend made.
-- $1 convo_id   $2 seq   $3 id   $4 sender   $5 epoch   $6 ciphertext   $7 embed_type   $8 embed_uri
insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext, embed_type, embed_uri)
select $1, $2, $3, $4, 'app', $5, $6, $7, $8
 where exists (select from members where convo_id = $1 and member_did = $4 and left_at is null)
returning created_at

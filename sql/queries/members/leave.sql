-- members/leave: ends a membership.
-- needs: the conversation, exclusively.
-- $1 convo_id   $2 did   $3 DID that ended it   $4 epoch   $5 last_seq it may have seen
update members set left_at = now(), left_by = $3, left_epoch = $4, left_seq = $5
 where convo_id = $1 and member_did = $2 and left_at is null

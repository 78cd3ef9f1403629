-- welcomes/withdraw: withdraws the waiting Welcomes of members that are added again or have left.
-- needs: the conversation, exclusively.
-- $1 convo_id   $2 recipients
delete from welcome_messages where convo_id = $1 and recipient_did = any($2) and state = 'available'
returning welcome_id

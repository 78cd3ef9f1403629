-- welcomes/withdraw: takes back what was waiting for somebody who is added anew or has left.
-- needs: the conversation, exclusively.   $1 convo_id   $2 recipients
delete from welcome_messages where convo_id = $1 and recipient_did = any($2) and state = 'available'
returning welcome_id

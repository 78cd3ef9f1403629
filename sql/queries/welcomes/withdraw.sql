-- welcomes/withdraw: withdraws the waiting Welcomes of members that are added again or have left, or only those for some key packages.
-- needs: the conversation, exclusively.
-- $1 convo_id   $2 recipients   $3 key package hashes, or null for all Welcomes of the recipients
delete from welcome_messages
 where convo_id = $1 and recipient_did = any($2) and state = 'available' and ($3::bytea[] is null or key_package_hash = any($3))
returning welcome_id

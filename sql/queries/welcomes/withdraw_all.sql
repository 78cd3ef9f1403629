-- welcomes/withdraw_all: withdraws all waiting Welcomes of a conversation, which lead into a group that ends.
-- needs: the conversation, exclusively.
-- $1 convo_id
delete from welcome_messages where convo_id = $1 and state = 'available'
returning welcome_id

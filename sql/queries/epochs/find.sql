-- epochs/find: returns the position of a conversation.
-- $1 convo_id
select current_epoch, last_seq from conversations where id = $1

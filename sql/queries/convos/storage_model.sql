-- convos/storage_model: returns the storage model of a conversation. No row: there is no such conversation.
-- $1 convo_id
select storage_model from conversations where id = $1

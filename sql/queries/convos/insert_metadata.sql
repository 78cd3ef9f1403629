-- convos/insert_metadata: stores the name and description of a conversation.
-- $1 convo_id   $2 name   $3 description
insert into conversation_metadata (convo_id, name, description) values ($1, $2, $3)

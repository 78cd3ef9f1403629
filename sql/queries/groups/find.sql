-- groups/find: returns the present MLS group of a conversation.
-- $1 convo_id
select generation, group_id, cipher_suite from conversations where id = $1

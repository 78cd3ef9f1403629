-- convos/group: returns the MLS group id and the cipher suite of a conversation. They never change.
-- $1 convo_id
select group_id, cipher_suite from conversations where id = $1

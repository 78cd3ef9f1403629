-- convos/group: the MLS group of a conversation, as clients name it, and its suite. They never change.   $1 convo_id
select group_id, cipher_suite from conversations where id = $1

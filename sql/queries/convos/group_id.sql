-- convos/group_id: the MLS group of a conversation, as clients name it. It never changes.   $1 convo_id
select group_id from conversations where id = $1

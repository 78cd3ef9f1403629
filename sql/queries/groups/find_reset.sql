-- groups/find_reset: returns the position of the reset by which a member has begun a conversation's present group.
-- $1 convo_id   $2 group id   $3 the member
select c.generation, c.initial_epoch as current_epoch, c.group_seq as last_seq
  from conversations c join messages e on e.convo_id = c.id and e.seq = c.group_seq
 where c.id = $1 and c.group_id = $2 and e.sender_did = $3 and e.message_type = 'reset'

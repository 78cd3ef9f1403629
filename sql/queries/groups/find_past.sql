-- groups/find_past: returns a group that a conversation had before, by its id or by its generation.
-- $1 convo_id   $2 group id or null   $3 generation or null
select generation, group_id, cipher_suite, initial_epoch, final_epoch, first_seq, last_seq from past_groups
 where convo_id = $1 and (group_id = $2 or generation = $3)

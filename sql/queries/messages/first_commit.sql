-- messages/first_commit: returns the epoch of the oldest commit of a generation with stored bytes. No row: there is none.
-- $1 convo_id   $2 generation
select epoch from messages where convo_id = $1 and generation = $2 and message_type = 'commit' order by epoch limit 1

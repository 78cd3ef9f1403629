-- messages/find_time: returns the time at which an entry was accepted.
-- $1 convo_id   $2 seq
select created_at from messages where convo_id = $1 and seq = $2

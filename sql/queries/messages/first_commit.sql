-- messages/first_commit: the epoch of the oldest commit whose bytes are kept. No row: none is.   $1 convo_id
select epoch from messages where convo_id = $1 and message_type = 'commit' order by epoch limit 1

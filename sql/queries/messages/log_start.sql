-- messages/log_start: returns the seq of the oldest entry of a log that was shortened. No row: the log starts at 1.
-- $1 convo_id
select seq from log_starts where convo_id = $1

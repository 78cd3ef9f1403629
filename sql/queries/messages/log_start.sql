-- messages/log_start: where a log begins: every entry from here on is kept. No row: at 1.   $1 convo_id
select seq from log_starts where convo_id = $1

-- sweeps/hold_convo: locks a conversation's row, so that writers without its advisory lock wait too, and returns
-- whether it ended, and before a time.
-- needs: the conversation's lock.
-- $1 convo_id   $2 ended before this
select ended_at is not null as ended, coalesce(ended_at < $2, false) as over from conversations where id = $1 for update

-- sweeps/next_convo: returns the next conversation.
-- $1 after this id
select id from conversations where id > $1 order by id limit 1

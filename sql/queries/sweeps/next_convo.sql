-- sweeps/next_convo: the conversation that comes next.   $1 after this id
select id from conversations where id > $1 order by id limit 1

-- admin/find_convo: returns the id of the conversation that a text names, as its id or, otherwise, as its present or earlier group id.
-- $1 id   $2 group id, or null
select id from (select id from conversations where id = $1 union all select id from conversations where group_id = $2
                 union all select convo_id from past_groups where group_id = $2) named
 order by id <> $1 limit 1

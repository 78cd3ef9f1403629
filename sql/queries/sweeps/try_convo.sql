-- sweeps/try_convo: takes a conversation's lock if it is free, as a statement of its own.
-- $1 convo_id
select 1 from (select pg_try_advisory_xact_lock(hashtextextended($1, 0)) as taken) l where taken

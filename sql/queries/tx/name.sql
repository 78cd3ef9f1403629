-- tx/name: names a transaction that takes no conversation's lock, as tx/lock does, and notes in catbird.held which conversation it may write,
-- if any: that of its actor.   $1 convo_id or null
select pg_current_xact_id()::text as xid, (select id from present_incarnation) as incarnation,
       set_config('catbird.held', case when $1 is null then '' else array[$1::text]::text end, true)

-- tx/lock: takes the conversation's lock and notes in catbird.held that it may be written. Returns the transaction's name and the incarnation
-- that the name belongs to: null if that has not begun yet, and then nothing may be written. It reads nothing else: its snapshot is older
-- than the lock. Plans are generic, as in tx/take.   $1 convo_id
select pg_current_xact_id()::text as xid, (select id from present_incarnation) as incarnation,
       set_config('catbird.held', array[$1]::text, true),
       set_config('plan_cache_mode', 'force_generic_plan', true)
  from pg_advisory_xact_lock(hashtextextended($1, 0))

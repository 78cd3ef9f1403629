-- tx/wait: waits for the lock of one conversation (lock_timeout) and notes in the transaction that it may be written, as tx/take does for
-- many; before the present incarnation has begun it may not. It reads nothing else: its snapshot is older than the lock. Says whether the
-- lock was free. PostgreSQL refuses a lock that is only tried while somebody waits for it, so of those who write one conversation either
-- all wait or those who wait have it for themselves.
-- What comes after it may wait for rows for longer than in tx/take, since nobody but this conversation waits with it, and for less than
-- it takes PostgreSQL to look for deadlocks.   $1 convo_id
select free, waited is null as at_once,
       set_config('catbird.held', array(select $1::text where exists (select from present_incarnation))::text, true),
       set_config('lock_timeout', '500ms', true),
       set_config('statement_timeout', '4s', true),
       set_config('plan_cache_mode', 'force_generic_plan', true)
  from (select free, case when not free then pg_advisory_xact_lock(hashtextextended($1::text, 0))::text end as waited
          from (select pg_try_advisory_xact_lock(hashtextextended($1::text, 0)) as free offset 0) tried offset 0) held

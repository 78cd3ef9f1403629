-- tx/take: notes in the transaction which conversations it may write: those whose lock is free, or all of them for an actor, who needs
-- none. Before the present incarnation has begun that is nothing. It waits for nothing, and it reads nothing else: its snapshot is older
-- than the locks. The note ends with the transaction, so what is sent after it in the same flush does nothing if there is none.
-- Replicas without locks may hold a row of one conversation; the others shall not wait for that for long. Nor shall anybody wait for the
-- reply (deadline::FLUSH) for longer than PostgreSQL works. And a batch has one plan, whatever its size: PostgreSQL would plan small
-- ones anew each time, which takes longer than to run them.
-- $1 convo_ids   $2 whether locks are taken
select set_config('catbird.held', held.ids::text, true),
       set_config('lock_timeout', '50ms', true),
       set_config('statement_timeout', '4s', true),
       set_config('plan_cache_mode', 'force_generic_plan', true)
  from (select array(select id from unnest($1::text[]) id
                      where exists (select from present_incarnation)
                        and (not $2 or pg_try_advisory_xact_lock(hashtextextended(id, 0)))) as ids offset 0) held

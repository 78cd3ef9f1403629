-- tx/take: names the transaction and notes in it which conversations it may write: those whose lock is free, or all of them for an
-- actor, who needs none. It waits for nothing, and it reads no table: its snapshot is older than the locks. The note ends with the
-- transaction, so what is sent after it in the same flush does nothing if there is none. Replicas without locks may hold a row of one
-- conversation; the others shall not wait for that for long.
-- $1 convo_ids   $2 whether locks are taken
select pg_current_xact_id()::text as xid, now() as begun, held.ids as held,
       set_config('catbird.held', held.ids::text, true),
       set_config('lock_timeout', '50ms', true)
  from (select array(select id from unnest($1::text[]) id
                      where not $2 or pg_try_advisory_xact_lock(hashtextextended(id, 0))) as ids offset 0) held

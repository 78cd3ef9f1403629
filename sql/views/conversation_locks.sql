-- conversation_locks: who holds or waits for the lock of which conversation, right now.
create view conversation_locks as
select c.id as convo_id, l.pid, l.granted, a.state, a.wait_event_type, now() - a.xact_start as held_for, a.query
  from pg_locks l
  join conversations c on hashtextextended(c.id, 0) = ((l.classid::bigint << 32) | l.objid::bigint)
  join pg_stat_activity a using (pid)
 where l.locktype = 'advisory' and l.objsubid = 1
   and l.database = (select oid from pg_database where datname = current_database());

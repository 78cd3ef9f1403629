-- conversation_locks: sessions that have or wait for the lock of a conversation. A lock was taken at some time in its
-- transaction, so held_for is an upper bound. A statement has its name in its first line.
create view conversation_locks as
select c.id as convo_id, l.pid, a.application_name, l.granted, substring(a.query from '^-- ([a-z_]+/[a-z_0-9]+)') as statement,
       a.state, a.wait_event_type, a.wait_event, case when l.granted then now() - a.xact_start end as held_for,
       now() - l.waitstart as waiting_for, case when not l.granted then pg_blocking_pids(l.pid) end as blocked_by, a.query
  from pg_locks l
  join conversations c on hashtextextended(c.id, 0) = ((l.classid::bigint << 32) | l.objid::bigint)
  join pg_stat_activity a using (pid)
 where l.locktype = 'advisory' and l.objsubid = 1
   and l.database = (select oid from pg_database where datname = current_database());
comment on view conversation_locks is
  'Sessions that have or wait for the lock of a conversation now, with their statement and the sessions that block them.';

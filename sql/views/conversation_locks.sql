-- conversation_locks: sessions that have or wait for the lock of a conversation. A lock was taken at some time in its
-- transaction, so held_for is an upper bound.
create view conversation_locks as
select c.id as convo_id, l.pid, a.application_name, l.granted, a.state, a.wait_event_type,
       case when l.granted then now() - a.xact_start end as held_for, now() - l.waitstart as waiting_for, a.query
  from pg_locks l
  join conversations c on hashtextextended(c.id, 0) = ((l.classid::bigint << 32) | l.objid::bigint)
  join pg_stat_activity a using (pid)
 where l.locktype = 'advisory' and l.objsubid = 1
   and l.database = (select oid from pg_database where datname = current_database());
comment on view conversation_locks is 'Who holds or waits for the lock of which conversation, now.';

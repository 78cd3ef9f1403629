-- tx/lock: takes the conversation's lock, and returns the transaction's id and its incarnation: null if that has not
-- begun, and then nothing may be written. It reads nothing else, because its snapshot is older than the lock.
-- $1 convo_id
select pg_current_xact_id()::text as xid, (select id from present_incarnation) as incarnation
  from pg_advisory_xact_lock(hashtextextended($1, 0))

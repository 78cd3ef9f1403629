-- tx/lock: takes the conversation's lock and names the transaction. It reads no table: its snapshot is older than the lock.
-- $1 convo_id
select pg_current_xact_id()::text as xid, now() as begun from pg_advisory_xact_lock(hashtextextended($1, 0))

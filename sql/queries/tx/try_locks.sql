-- tx/try_locks: takes the locks of those conversations that nobody holds, without waiting, and names the transaction. It reads no
-- table: its snapshot is older than the locks.
-- $1 convo_ids
select pg_current_xact_id()::text as xid, now() as begun,
       array(select id from unnest($1::text[]) id where pg_try_advisory_xact_lock(hashtextextended(id, 0))) as held

-- tx/try_locks: takes the locks of those conversations that nobody holds, without waiting. It reads no table: its snapshot is
-- older than the locks.
-- $1 convo_ids
select id from unnest($1::text[]) id where pg_try_advisory_xact_lock(hashtextextended(id, 0))

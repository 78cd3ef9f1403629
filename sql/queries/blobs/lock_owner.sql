-- blobs/lock_owner: locks the beginning of uploads of a person until the end of the transaction. Seed 4 keeps it apart from other locks.
-- $1 did
select 1 as locked from pg_advisory_xact_lock(hashtextextended($1, 4))

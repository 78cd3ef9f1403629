-- sweeps/lock: one replica at a time for each kind of sweep, until the transaction ends. No row: another one is at it.
-- Seed 3 keeps clear of conversations, owners and the schema.   $1 job
select 1 as locked where pg_try_advisory_xact_lock(hashtextextended($1, 3))

-- sweeps/lock: one replica at a time for each kind of sweep, until the transaction ends, whose statements may take so long. No row: another
-- one is at it. Seed 3 keeps clear of conversations, owners and the schema.   $1 job   $2 milliseconds
select set_config('statement_timeout', $2, true) as limited where pg_try_advisory_xact_lock(hashtextextended($1, 3))

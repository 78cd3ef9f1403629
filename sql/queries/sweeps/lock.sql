-- sweeps/lock: locks a kind of sweep for this transaction, and limits its statements. No row: another replica has the
-- lock. Seed 3 keeps it apart from the locks of conversations, owners and the schema.
-- $1 job   $2 milliseconds
select set_config('statement_timeout', $2, true) as limited where pg_try_advisory_xact_lock(hashtextextended($1, 3))

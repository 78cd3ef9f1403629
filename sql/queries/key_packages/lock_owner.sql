-- key_packages/lock_owner: locks the key packages of an owner until the end of the transaction. No row: another
-- transaction has the lock. Seed 1 keeps it apart from the locks of conversations.
-- $1 did
select 1 as locked where pg_try_advisory_xact_lock(hashtextextended($1, 1))

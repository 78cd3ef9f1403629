-- key_packages/lock_owner: one at a time for everything that counts or claims in somebody's name. No row: somebody else is at it.
-- Seed 1 keeps clear of conversations.   $1 did
select 1 as locked where pg_try_advisory_xact_lock(hashtextextended($1, 1))

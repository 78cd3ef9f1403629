-- key_packages/lock_owner: one at a time for everything that counts or claims in somebody's name. Seed 1 keeps clear of conversations.
-- $1 did
select 1 as locked from pg_advisory_xact_lock(hashtextextended($1, 1))

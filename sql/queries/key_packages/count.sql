-- key_packages/count: returns the number of an owner's packages that can still be issued.
-- $1 owner   $2 now
select count(*) as available from key_packages
 where owner_did = $1 and claimed_by is null and consumed_at is null and expires_at > $2

-- key_packages/count: how many of somebody's packages may still be issued.   $1 owner   $2 now
select count(*) as available from key_packages
 where owner_did = $1 and claimed_by is null and consumed_at is null and expires_at > $2

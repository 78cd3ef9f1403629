-- key_packages/list_available: returns the hashes and references of an owner's packages that can be issued, oldest first.
-- $1 owner   $2 now   $3 maximum number
select hash, reference from key_packages
 where owner_did = $1 and claimed_by is null and consumed_at is null and retired_at is null and expires_at > $2
 order by created_at, hash limit $3

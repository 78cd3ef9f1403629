-- key_packages/find_named: returns the hashes of an owner's packages that a list names, by their hash or their reference,
-- and that name. References of packages that were taken long ago are not found.
-- $1 owner   $2 hashes and references
select hash, hash as name from key_packages where hash = any($2) and owner_did = $1
union
select hash, reference from key_packages
 where owner_did = $1 and claimed_by is null and consumed_at is null and reference = any($2)
union
select hash, reference from key_packages
 where owner_did = $1 and coalesce(claimed_at, consumed_at) > 'epoch' and reference = any($2)

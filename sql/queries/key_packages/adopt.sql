-- key_packages/adopt: gives a device the packages that were never issued and have its signature key.
-- needs: the owner's key packages (key_packages/lock_owner).
-- $1 owner   $2 device_id   $3 signature key
update key_packages set device_id = $2
 where owner_did = $1 and claimed_by is null and consumed_at is null and device_id is null and signature_key_hash = sha256($3)

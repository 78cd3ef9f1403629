-- key_packages/replace: deletes the packages of a device that were never issued, except these.
-- needs: the owner's key packages (key_packages/lock_owner).
-- $1 owner   $2 device_id   $3 hashes to keep
delete from key_packages
 where owner_did = $1 and device_id = $2 and claimed_by is null and consumed_at is null and not hash = any($3)

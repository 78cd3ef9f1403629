-- key_packages/replace: deletes the packages of a device that were never issued, except these. A last-resort package may have been issued
-- and has to open its Welcomes, so it is only withdrawn.
-- needs: the owner's key packages (key_packages/lock_owner).
-- $1 owner   $2 device_id   $3 hashes to keep
with withdrawn as (
  update key_packages set retired_at = now()
   where owner_did = $1 and device_id = $2 and last_resort and retired_at is null and claimed_by is null and consumed_at is null
     and not hash = any($3)
)
delete from key_packages
 where owner_did = $1 and device_id = $2 and not last_resort and claimed_by is null and consumed_at is null and not hash = any($3)

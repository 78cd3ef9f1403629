-- devices/mark_deleted: deletes a device, of which members are then told. No row: no such device.
-- needs: the owner's key packages (key_packages/lock_owner).
-- $1 owner   $2 device_id
update devices set deleted_at = now(), announced_to = ''
 where owner_did = $1 and device_id = $2 and deleted_at is null
returning device_id

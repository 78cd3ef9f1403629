-- devices/insert: registers a device.
-- needs: the owner's key packages (key_packages/lock_owner).
-- $1 owner   $2 device_id   $3 device_uuid or null   $4 name   $5 signature key
insert into devices (owner_did, device_id, device_uuid, name, signature_key) values ($1, $2, $3, $4, $5)

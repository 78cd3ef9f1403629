-- devices/find: returns the devices of a person that have this name or this signature key.
-- $1 owner   $2 device_uuid or null   $3 signature key
select device_id, coalesce(device_uuid = $2, false) as same_uuid, signature_key = $3 as same_key from devices
 where owner_did = $1 and deleted_at is null and (device_uuid = $2 or signature_key = $3)

-- devices/exists: finds a device.
-- $1 owner   $2 device_id
select 1 as found from devices where owner_did = $1 and device_id = $2 and deleted_at is null

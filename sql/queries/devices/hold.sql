-- devices/hold: locks a device of which members are still to be told. No row: there is none to tell of.
-- $1 owner   $2 device_id
select announced_to, deleted_at is not null as deleted from devices
 where owner_did = $1 and device_id = $2 and announced_to is not null
   for update

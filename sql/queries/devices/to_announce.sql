-- devices/to_announce: returns devices of which members are still to be told, in order, after one of them.
-- $1 owner   $2 device_id   $3 maximum number of devices
select owner_did, device_id from devices
 where announced_to is not null and (owner_did, device_id) > ($1, $2)
 order by owner_did, device_id limit $3

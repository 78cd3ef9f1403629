-- devices/move_announcement: records the last conversation whose members were told of a device, null once all were.
-- needs: the device (devices/hold).
-- $1 owner   $2 device_id   $3 convo_id or null
update devices set announced_to = $3 where owner_did = $1 and device_id = $2

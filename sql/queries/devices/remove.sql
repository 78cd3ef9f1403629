-- devices/remove: removes a deleted device once all members were told, and what is left of it in conversations that its owner has left.
-- needs: the device (devices/hold).
-- $1 owner   $2 device_id
with left_groups as (
  delete from device_memberships where owner_did = $1 and device_id = $2
)
delete from devices where owner_did = $1 and device_id = $2

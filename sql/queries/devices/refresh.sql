-- devices/refresh: registers a device again. One with a new signature key is in no group any more.
-- needs: the owner's key packages (key_packages/lock_owner).
-- $1 owner   $2 device_id   $3 device_uuid or null   $4 name   $5 signature key
with lost as (
  delete from device_memberships m using devices d
   where d.owner_did = $1 and d.device_id = $2 and d.signature_key <> $5 and m.owner_did = $1 and m.device_id = $2
)
update devices
   set device_uuid = coalesce($3, device_uuid), name = $4, signature_key = $5, last_seen_at = now(),
       announced_to = case when signature_key <> $5 then '' else announced_to end
 where owner_did = $1 and device_id = $2

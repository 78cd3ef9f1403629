-- key_packages/count: returns for each signature key the device that has it, empty if it is not registered, and the number of one-time packages
-- that can still be issued of that device, or of all clients that are not registered.
-- $1 owner   $2 now   $3 signature keys
select n.key, coalesce(d.device_id, '') as device,
       (select count(*) from key_packages k
         where k.owner_did = $1 and k.claimed_by is null and k.consumed_at is null and k.expires_at > $2
           and not k.last_resort and k.device_id is not distinct from d.device_id) as available
  from unnest($3::bytea[]) n (key)
  left join devices d on d.owner_did = $1 and d.signature_key = n.key and d.deleted_at is null

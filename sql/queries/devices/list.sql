-- devices/list: returns the devices of a person, the one seen last first, each with the number of its key packages that can be issued.
-- $1 owner   $2 now
select d.device_id, d.name, d.device_uuid, d.registered_at, d.last_seen_at,
       (select count(*) from key_packages k
         where k.owner_did = d.owner_did and k.device_id = d.device_id and k.claimed_by is null and k.consumed_at is null
           and k.retired_at is null and k.expires_at > $2) as key_packages
  from devices d
 where d.owner_did = $1 and d.deleted_at is null
 order by d.last_seen_at desc, d.device_id

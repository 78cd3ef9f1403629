-- devices/list: returns the devices of a person, the one seen last first, each with the number of its key packages that can be issued.
-- $1 owner   $2 now
select d.device_id, d.name, d.device_uuid, d.registered_at, d.last_seen_at, k.key_packages, k.one_time
  from devices d
 cross join lateral (select count(*) as key_packages, count(*) filter (where not last_resort) as one_time from key_packages
                      where owner_did = d.owner_did and device_id = d.device_id and claimed_by is null and consumed_at is null
                        and retired_at is null and expires_at > $2) k
 where d.owner_did = $1 and d.deleted_at is null
 order by d.last_seen_at desc, d.device_id

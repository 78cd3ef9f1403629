-- key_packages/devices: returns the devices of each owner of which a package can be issued, registered ones first. Each step of the
-- recursion looks the next device up in the index.
-- A subquery hides the length of the list, for which PostgreSQL would plan the statement anew each time.
-- $1 owners   $2 cipher suite   $3 now   $4 maximum number of devices of each owner
with recursive found (owner_did, device, nth) as (
  select o.did, d.device, 1 from unnest((select $1::text[])) o (did)
  cross join lateral (select device_key(k.device_id, k.signature_key_hash) as device from key_packages k
                       where k.owner_did = o.did and k.cipher_suite = $2 and k.claimed_by is null and k.consumed_at is null
                         and k.retired_at is null and k.expires_at > $3
                       order by device_key(k.device_id, k.signature_key_hash) limit 1) d
  union all
  select f.owner_did, d.device, f.nth + 1 from found f
  cross join lateral (select device_key(k.device_id, k.signature_key_hash) as device from key_packages k
                       where k.owner_did = f.owner_did and k.cipher_suite = $2 and k.claimed_by is null and k.consumed_at is null
                         and k.retired_at is null and k.expires_at > $3 and device_key(k.device_id, k.signature_key_hash) > f.device
                       order by device_key(k.device_id, k.signature_key_hash) limit 1) d
   where f.nth < $4
)
select owner_did, device from found order by owner_did, nth

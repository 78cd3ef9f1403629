-- key_packages/insert: stores packages of one owner, each for the device that has its signature key, if there is one; and returns those
-- that were not known by their hash or their init key. Init keys are inserted in one order, so that two requests with the same ones cannot
-- deadlock.
-- needs: the owner's key packages (key_packages/lock_owner).
-- $1 owner   $2 hashes   $3 cipher suites   $4 bytes   $5 last resort   $6 expires_at   $7 hashes of the init keys
-- $8 references   $9 signature keys   (lists in step)
with seen as (
  update devices set last_seen_at = now() where owner_did = $1 and signature_key = any($9) and deleted_at is null
  returning device_id, signature_key
)
insert into key_packages (hash, owner_did, cipher_suite, key_package, last_resort, expires_at, init_key_hash, reference,
                          device_id, signature_key_hash)
select n.hash, $1, n.cipher_suite, n.key_package, n.last_resort, n.expires_at, n.init_key_hash, n.reference,
       d.device_id, sha256(n.signature_key)
  from unnest($2::bytea[], $3::text[], $4::bytea[], $5::boolean[], $6::timestamptz[], $7::bytea[], $8::bytea[], $9::bytea[])
       n (hash, cipher_suite, key_package, last_resort, expires_at, init_key_hash, reference, signature_key)
  left join seen d on d.signature_key = n.signature_key
 order by n.init_key_hash
on conflict do nothing
returning hash

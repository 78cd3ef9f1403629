-- key_packages/leased: returns packages that the caller was issued a short while ago and has not used, one per device.
-- $1 owners   $2 cipher suite   $3 caller   $4 now
select distinct on (owner_did, device_key(device_id, signature_key_hash))
       owner_did, hash, key_package, cipher_suite, device_id, device_key(device_id, signature_key_hash) as device
  from key_packages
 where owner_did = any($1) and cipher_suite = $2 and claimed_by = $3 and claim_expires_at > $4
   and consumed_at is null and retired_at is null and expires_at > $4
 order by owner_did, device_key(device_id, signature_key_hash), claimed_at

-- key_packages/retire_replaced: ends the issue of the last-resort packages that newer ones of the same owner, device and
-- cipher suite replace. They still open the Welcomes that were made with them.
-- $1 owner   $2 hashes of the newer ones, one for each device and cipher suite   $3 now
update key_packages k set retired_at = $3
  from key_packages n
 where n.hash = any($2) and k.owner_did = $1 and k.cipher_suite = n.cipher_suite and k.hash <> n.hash
   and device_key(k.device_id, k.signature_key_hash) = device_key(n.device_id, n.signature_key_hash)
   and k.last_resort and k.retired_at is null and k.claimed_by is null and k.consumed_at is null

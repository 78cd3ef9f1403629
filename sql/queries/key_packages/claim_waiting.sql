-- key_packages/claim_waiting: issues one package of each device to the caller, and waits for packages that another
-- transaction has locked and may give back. Only this proves that there is none.
-- Subqueries hide the length of the lists, for which PostgreSQL would plan the statement anew each time.
-- $1 owners   $2 their devices, in step   $3 cipher suite   $4 caller   $5 now   $6 end of the lease
with picked as materialized (
  select p.hash from unnest((select $1::text[]), (select $2::text[])) w (did, device)
  cross join lateral (select k.hash from key_packages k
                       where k.owner_did = w.did and k.cipher_suite = $3 and device_key(k.device_id, k.signature_key_hash) = w.device
                         and k.claimed_by is null and k.consumed_at is null and not k.last_resort and k.expires_at > $5
                       order by k.created_at limit 1 for update) p
)
update key_packages k set claimed_by = $4, claimed_at = $5, claim_expires_at = $6
  from picked where k.hash = picked.hash
returning k.owner_did, k.hash, k.key_package, k.cipher_suite, k.device_id, device_key(k.device_id, k.signature_key_hash) as device

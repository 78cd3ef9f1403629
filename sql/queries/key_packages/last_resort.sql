-- key_packages/last_resort: returns the newest last-resort package of each device. It is never claimed nor used; the
-- conditions on that match the index.
-- Subqueries hide the length of the lists, for which PostgreSQL would plan the statement anew each time.
-- $1 owners   $2 their devices, in step   $3 cipher suite   $4 now
select p.* from unnest((select $1::text[]), (select $2::text[])) w (did, device)
 cross join lateral (select k.owner_did, k.hash, k.key_package, k.cipher_suite, k.device_id, w.device from key_packages k
                      where k.owner_did = w.did and k.cipher_suite = $3 and device_key(k.device_id, k.signature_key_hash) = w.device
                        and k.last_resort and k.expires_at > $4 and k.claimed_by is null and k.consumed_at is null
                        and k.retired_at is null
                      order by k.created_at desc limit 1) p

-- key_packages/last_resort: returns the newest last-resort package per owner. It is never claimed nor used; the
-- conditions on that match the index.
-- $1 owners   $2 cipher suite   $3 now
select distinct on (owner_did) owner_did, hash, key_package, cipher_suite from key_packages
 where owner_did = any($1) and cipher_suite = $2 and last_resort and expires_at > $3
   and claimed_by is null and consumed_at is null
 order by owner_did, created_at desc

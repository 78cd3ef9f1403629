-- key_packages/last_resort: the newest package per owner that is never used up. That it is neither claimed nor consumed is always
-- so, and said for the sake of the index.   $1 owners   $2 cipher suite   $3 now
select distinct on (owner_did) owner_did, hash, key_package, cipher_suite from key_packages
 where owner_did = any($1) and cipher_suite = $2 and last_resort and expires_at > $3
   and claimed_by is null and consumed_at is null
 order by owner_did, created_at desc

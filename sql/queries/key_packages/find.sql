-- key_packages/find: returns the owner of a package, by its hash or its init key, and the hash under which it is
-- stored.
-- $1 hash   $2 hash of the init key
select owner_did, hash from key_packages where hash = $1 or init_key_hash = $2
 order by hash <> $1 limit 1

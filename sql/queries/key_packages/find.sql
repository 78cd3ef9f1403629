-- key_packages/find: whose a package is, in any of its spellings, and the hash it is kept under.   $1 hash   $2 hash of the init key
select owner_did, hash from key_packages where hash = $1 or init_key_hash = $2
 order by hash <> $1 limit 1

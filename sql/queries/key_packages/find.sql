-- key_packages/find: whose a hash is.   $1 hash
select owner_did from key_packages where hash = $1

-- key_packages/insert: keeps a package, unless its hash was ever seen.
-- $1 hash   $2 owner   $3 cipher suite   $4 bytes   $5 last resort   $6 expires_at
insert into key_packages (hash, owner_did, cipher_suite, key_package, last_resort, expires_at)
values ($1, $2, $3, $4, $5, $6)
on conflict (hash) do nothing

-- key_packages/insert: stores a package. No row: it is known, by its hash or by its init key.
-- $1 hash   $2 owner   $3 cipher suite   $4 bytes   $5 last resort   $6 expires_at   $7 hash of the init key
-- $8 reference
insert into key_packages (hash, owner_did, cipher_suite, key_package, last_resort, expires_at, init_key_hash, reference)
values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict do nothing
returning hash

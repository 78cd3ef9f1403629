-- key_packages/insert: stores packages of one owner, and returns those that were not known by their hash or their init
-- key. Init keys are inserted in one order, so that two requests with the same ones cannot deadlock.
-- $1 owner   $2 hashes   $3 cipher suites   $4 bytes   $5 last resort   $6 expires_at   $7 hashes of the init keys
-- $8 references   (lists in step)
insert into key_packages (hash, owner_did, cipher_suite, key_package, last_resort, expires_at, init_key_hash, reference)
select n.hash, $1, n.cipher_suite, n.key_package, n.last_resort, n.expires_at, n.init_key_hash, n.reference
  from unnest($2::bytea[], $3::text[], $4::bytea[], $5::boolean[], $6::timestamptz[], $7::bytea[], $8::bytea[])
       n (hash, cipher_suite, key_package, last_resort, expires_at, init_key_hash, reference)
 order by n.init_key_hash
on conflict do nothing
returning hash

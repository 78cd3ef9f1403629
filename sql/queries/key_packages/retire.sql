-- key_packages/retire: ends the issue of an owner's packages, and returns those that could still be issued or were.
-- $1 owner   $2 hashes   $3 now
update key_packages set retired_at = $3 where hash = any($2) and owner_did = $1 and retired_at is null
returning hash

-- key_packages/find: returns the owner of each package that is known by its hash or its init key, the hash under which it
-- is stored, and its place in the list, from 1.
-- $1 hashes   $2 hashes of the init keys, in step
select n.place, k.owner_did, k.hash from unnest($1::bytea[], $2::bytea[]) with ordinality n (hash, init_key_hash, place)
 cross join lateral (select owner_did, hash from key_packages k where k.hash = n.hash or k.init_key_hash = n.init_key_hash
                      order by k.hash <> n.hash limit 1) k

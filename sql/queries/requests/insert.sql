-- requests/insert: remembers what requests got, in the transaction that did them, in the order given.
-- In step: $1 callers   $2 methods   $3 keys   $4 fingerprints   $5 replies
insert into idempotency_records (caller_did, method, key, fingerprint, reply)
select r.* from unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::jsonb[]) r

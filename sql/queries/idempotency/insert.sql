-- idempotency/insert: stores the reply of a request, in the transaction that did it.
-- $1 caller   $2 method   $3 key   $4 fingerprint   $5 reply
insert into idempotency_records (caller_did, method, key, fingerprint, reply) values ($1, $2, $3, $4, $5)

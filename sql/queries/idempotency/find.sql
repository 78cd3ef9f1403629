-- idempotency/find: returns fingerprint and reply of an earlier request with the same key.
-- $1 caller   $2 method   $3 key
select fingerprint, reply from idempotency_records where caller_did = $1 and method = $2 and key = $3

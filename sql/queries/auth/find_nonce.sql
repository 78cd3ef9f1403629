-- auth/find_nonce: returns a row if a token is marked as used.
-- $1 digest   $2 issuer   $3 jti   $4 time of expiry   $5 now
select 1 from used_tokens where slot = token_slot($4) and token = $1
union all
select 1 from auth_nonces where issuer_did = $2 and jti = $3 and expires_at >= $5

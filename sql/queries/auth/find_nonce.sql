-- auth/find_nonce: a row if a token is marked as used.   $1 issuer   $2 jti   $3 now
select 1 from auth_nonces where issuer_did = $1 and jti = $2 and expires_at >= $3

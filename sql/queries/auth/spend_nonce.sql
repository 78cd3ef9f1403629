-- auth/spend_nonce: marks a token as used. No row: it was used before.   $1 issuer   $2 jti   $3 remember until   $4 now
insert into auth_nonces (issuer_did, jti, expires_at) values ($1, $2, $3)
on conflict (issuer_did, jti) do update set expires_at = excluded.expires_at where auth_nonces.expires_at < $4
returning true as spent

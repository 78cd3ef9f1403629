-- auth/spend_nonces: marks tokens as used, many at once. No row for a token: it was used before. In one order for everybody, so
-- that two replicas that spend the same tokens cannot wait for each other in a circle.
-- In step, no token twice: $1 issuers   $2 jtis   $3 remember until.   $4 now
insert into auth_nonces (issuer_did, jti, expires_at)
select issuer_did, jti, expires_at from unnest($1::text[], $2::text[], $3::timestamptz[]) n (issuer_did, jti, expires_at)
 order by issuer_did, jti
on conflict (issuer_did, jti) do update set expires_at = excluded.expires_at where auth_nonces.expires_at < $4
returning issuer_did, jti

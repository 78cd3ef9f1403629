-- auth/use_long_tokens: marks tokens with a long lifetime as used, and returns a row for each that was unused. All replicas
-- lock tokens in one order, so that they cannot deadlock.
-- In step, no token twice: $1 issuers   $2 jtis   $3 remember until.   $4 now
insert into auth_nonces (issuer_did, jti, expires_at, lasting)
select n.issuer_did, n.jti, n.until, true from unnest($1::text[], $2::text[], $3::timestamptz[]) n (issuer_did, jti, until)
 order by n.issuer_did, n.jti
on conflict (issuer_did, jti) do update set expires_at = excluded.expires_at, lasting = true where auth_nonces.expires_at < $4
returning issuer_did, jti

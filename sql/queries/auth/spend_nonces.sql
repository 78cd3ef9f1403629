-- auth/spend_nonces: marks tokens as used, many at once. No row for a token: it was used before, or is dead or ahead of its time by so much
-- that its record may be gone (V022), which takes clocks that differ by minutes. In one order for everybody, so that two replicas that
-- spend the same tokens cannot wait for each other in a circle.
-- In step, no token twice: $1 digests   $2 issuers   $3 jtis   $4 when they die   $5 whether they may live for long.   For those that may:
-- $6 remember until   $7 now
with given as materialized (
  select * from unnest($1::bytea[], $2::text[], $3::text[], $4::timestamptz[], $5::boolean[], $6::timestamptz[])
    with ordinality g (token, issuer_did, jti, dies_at, lasting, until, place)
), short as (
  insert into used_tokens (slot, token)
  select token_slot(g.dies_at), g.token from given g
   where not g.lasting
     and g.dies_at > statement_timestamp() - interval '5 minutes' and g.dies_at < statement_timestamp() + interval '9 minutes'
     -- Accepted before there was a ring.
     and (select true from auth_nonces n where n.issuer_did = g.issuer_did and n.jti = g.jti) is not true
   order by 1, 2
  on conflict do nothing
  returning token
), long as (
  insert into auth_nonces (issuer_did, jti, expires_at, lasting)
  select issuer_did, jti, until, true from given where lasting
   order by issuer_did, jti
  on conflict (issuer_did, jti) do update set expires_at = excluded.expires_at, lasting = true where auth_nonces.expires_at < $7
  returning issuer_did, jti
)
select place from given g join short using (token) where not g.lasting
union all
select place from given g join long using (issuer_did, jti) where g.lasting

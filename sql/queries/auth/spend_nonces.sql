-- auth/spend_nonces: marks tokens as used, and returns a row for each that was unused. No row for a token: it was used
-- before; or its record may be gone, because it is expired or not yet valid by minutes (V025); or it may have been used
-- before a crash that emptied the register. All replicas lock tokens in one order, so that they cannot deadlock.
-- In step, no token twice: $1 digests   $2 issuers   $3 jtis   $4 times of expiry   $5 whether they have a long lifetime
-- $8 times of issue.   For those with a long lifetime: $6 remember until   $7 now
with given as materialized (
  select * from unnest($1::bytea[], $2::text[], $3::text[], $4::timestamptz[], $5::boolean[], $6::timestamptz[], $8::timestamptz[])
    with ordinality g (token, issuer_did, jti, dies_at, lasting, until, made_at, place)
), register as materialized (
  -- Time since which the register surely has all used tokens: the present incarnation begins after a crash and after
  -- any other restart.
  select coalesce((select i.since from present_incarnation p join incarnations i on i.id = p.id), statement_timestamp()) as since
), short as (
  insert into used_tokens (slot, token)
  select token_slot(g.dies_at), g.token from given g, register r
   where not g.lasting
     and g.dies_at > statement_timestamp() - interval '5 minutes' and g.dies_at < statement_timestamp() + interval '70 minutes'
     -- No replica accepts a token more than ten seconds before it was issued (clock::LEEWAY_SECONDS), and the clocks of
     -- issuers and of PostgreSQL may differ. Tokens that live for five minutes and twice the leeway are exempt
     -- (token::LOOSE_TOKEN_SECONDS); otherwise no caller could authenticate in the first minute.
     and (g.made_at > r.since + interval '1 minute' or g.dies_at <= g.made_at + interval '320 seconds')
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

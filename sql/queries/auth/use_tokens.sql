-- auth/use_tokens: marks tokens as used, and returns a row for each that was unused. No row for a token: it was used
-- before; or its record may be gone, because it is expired or not yet valid by minutes (V025); or it may have been used
-- before a crash that emptied the register. All replicas lock tokens in one order, so that they cannot deadlock.
-- In step, no token twice: $1 slots, token_slot of the times of expiry   $2 digests   $3 times of expiry   $4 times of issue
insert into used_tokens (slot, token)
select g.slot, g.token
  from unnest($1::smallint[], $2::bytea[], $3::timestamptz[], $4::timestamptz[]) g (slot, token, dies_at, made_at)
 where g.dies_at > statement_timestamp() - interval '5 minutes' and g.dies_at < statement_timestamp() + interval '70 minutes'
   -- No replica accepts a token more than ten seconds before it was issued (clock::LEEWAY_SECONDS), and the clocks of
   -- issuers and of PostgreSQL may differ. Tokens that live for five minutes and twice the leeway are exempt
   -- (token::LOOSE_TOKEN_SECONDS); otherwise no caller could authenticate in the first minute. The register surely has
   -- all used tokens since the present incarnation began, after a crash or any other restart.
   and (g.dies_at <= g.made_at + interval '320 seconds'
        or g.made_at > coalesce((select i.since from present_incarnation p join incarnations i on i.id = p.id), statement_timestamp())
                       + interval '1 minute')
 order by g.slot, g.token
on conflict do nothing
returning token

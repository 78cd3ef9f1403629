-- Tokens that were used before there was the ring of V022 go into it, so whoever uses a token asks the ring alone. Replicas of a build before
-- it may have written such rows until this migration's predecessors were applied, minutes ago if all are applied together. What they write
-- since then a trigger puts into the ring. As there, a row says until when it is remembered and not when its token dies, so it takes every
-- slot that the token may belong to. PostgreSQL refuses no row that is there already.
insert into used_tokens (slot, token)
select (part % 16)::smallint, substr(sha256(convert_to(n.issuer_did || '|' || n.jti, 'UTF8')), 1, 16)
  from auth_nonces n,
       generate_series(ten_minutes(clock_timestamp() - interval '2 minutes'),
                       ten_minutes(least(n.expires_at, clock_timestamp() + interval '9 minutes'))) part
 where not n.lasting and n.expires_at > clock_timestamp() - interval '2 minutes'
 order by 1, 2
on conflict do nothing;

-- Tokens that were used before there was the ring of V022 go into it, so that a replica looks for a used token in the ring alone. An upgrade
-- from a build before V022 applies both migrations within moments, while such tokens are still valid. What replicas of that build
-- write later, the trigger of V022 puts into the ring. A row of theirs says until when it is remembered and not when its token expires, so
-- it goes into every slot that the token may belong to, as in that trigger.
insert into used_tokens (slot, token)
select (part % 16)::smallint, substr(sha256(convert_to(n.issuer_did || '|' || n.jti, 'UTF8')), 1, 16)
  from auth_nonces n,
       generate_series(ten_minutes(clock_timestamp() - interval '2 minutes'),
                       ten_minutes(least(n.expires_at, clock_timestamp() + interval '9 minutes'))) part
 where not n.lasting and n.expires_at > clock_timestamp() - interval '2 minutes'
 order by 1, 2
on conflict do nothing;

-- members/ever: returns those pairs of conversation and DID that are or were memberships. It probes the index once per
-- pair, whether or not the conversation exists, so that the time reveals nothing.
-- Subqueries hide the length of the lists, for which PostgreSQL would plan the statement anew each time.
-- In step: $1 convo_ids   $2 dids
select asked.convo_id, asked.member_did
  from unnest((select $1::text[]), (select $2::text[])) asked (convo_id, member_did)
  -- With `offset 0` PostgreSQL can only look each one up. It may choose to read the whole table for a plain join.
  cross join lateral (select from members where convo_id = asked.convo_id and member_did = asked.member_did offset 0) m

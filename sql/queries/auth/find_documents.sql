-- auth/find_documents: returns the stored documents of these DIDs.
-- A subquery hides the length of the list, for which PostgreSQL would plan the statement anew each time.
-- $1 dids
select d.did, k.account_key, k.fetched_at from unnest((select $1::text[])) d (did)
  -- With `offset 0` PostgreSQL can only look each one up. It may choose to read the whole table for a plain join.
  cross join lateral (select account_key, fetched_at from did_documents where did = d.did offset 0) k

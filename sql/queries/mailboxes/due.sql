-- mailboxes/due: returns whether an envelope is due, whether a challenge is due, and the time from which on envelopes
-- are searched next. No envelope is due before that time: a later row is not due before its transaction began, or is
-- found by the next full scan. So the search does not walk over index entries of delivered envelopes, which stay until
-- the oldest open snapshot ends.
-- $1 from when on, or null for all   $2 for how many seconds a transaction that makes envelopes may run
with first as materialized (
  select next_attempt_at from envelopes
   where state = 'pending' and next_attempt_at >= coalesce($1::timestamptz, '-infinity') order by next_attempt_at limit 1
)
select coalesce((select next_attempt_at from first) <= statement_timestamp(), false) as envelopes,
       coalesce((select challenge_at from mailboxes where provider = 'webhook' and state = 'unverified' order by challenge_at limit 1)
                <= statement_timestamp(), false) as challenges,
       least((select next_attempt_at from first), statement_timestamp() - make_interval(secs => $2)) as since

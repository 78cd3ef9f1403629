-- mailboxes/due: whether an envelope's time has come, whether a challenge's has, and from when on to look for envelopes the next time. None
-- is due before that: a row that comes later is not due before its transaction began, or is found when all of them are looked at. So
-- nobody walks over what was delivered since somewhere a snapshot was taken that is still open, which no index lets go of until it ends.
-- $1 from when on, or null for all   $2 for how many seconds a transaction that makes envelopes may run
with first as materialized (
  select next_attempt_at from envelopes
   where state = 'pending' and next_attempt_at >= coalesce($1::timestamptz, '-infinity') order by next_attempt_at limit 1
)
select coalesce((select next_attempt_at from first) <= statement_timestamp(), false) as envelopes,
       coalesce((select challenge_at from mailboxes where provider = 'webhook' and state = 'unverified' order by challenge_at limit 1)
                <= statement_timestamp(), false) as challenges,
       least((select next_attempt_at from first), statement_timestamp() - make_interval(secs => $2)) as since

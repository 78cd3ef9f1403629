-- mailboxes/due: whether an envelope's time has come, and whether a challenge's has.
select coalesce((select next_attempt_at from envelopes where state = 'pending' order by next_attempt_at limit 1)
                <= statement_timestamp(), false) as envelopes,
       coalesce((select challenge_at from mailboxes where provider = 'webhook' and state = 'unverified' order by challenge_at limit 1)
                <= statement_timestamp(), false) as challenges

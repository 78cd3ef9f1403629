-- mailboxes/due: whether an envelope's time has come.
select coalesce((select next_attempt_at from envelopes where state = 'pending' order by next_attempt_at limit 1)
                <= statement_timestamp(), false) as due

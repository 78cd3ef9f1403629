-- mailboxes/early: the mailbox has not proved itself, so this was no attempt; the next one is due later.
-- $1 envelope   $2 attempt   $3 seconds   $4 why
update envelopes set attempts = attempts - 1, next_attempt_at = statement_timestamp() + make_interval(secs => $3), last_error = $4
 where id = $1 and state = 'pending' and attempts = $2

-- mailboxes/early: postpones an envelope whose mailbox is not verified yet. It does not count as an attempt.
-- $1 envelope   $2 attempt   $3 seconds   $4 reason
update envelopes set attempts = attempts - 1, next_attempt_at = statement_timestamp() + make_interval(secs => $3), last_error = $4
 where id = $1 and state = 'pending' and attempts = $2

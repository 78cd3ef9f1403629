-- mailboxes/failed: records a failed attempt, and when the next one is due.
-- $1 envelope   $2 attempt   $3 seconds   $4 reason
update envelopes set next_attempt_at = statement_timestamp() + make_interval(secs => $3), last_error = $4
 where id = $1 and state = 'pending' and attempts = $2

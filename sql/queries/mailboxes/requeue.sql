-- mailboxes/requeue: makes dead envelopes due, with a fresh count of attempts.
-- $1 envelopes, null for all
update envelopes set state = 'pending', attempts = 0, next_attempt_at = statement_timestamp()
 where state = 'dead' and ($1::text[] is null or id = any($1))
returning id

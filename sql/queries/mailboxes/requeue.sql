-- mailboxes/requeue: dead envelopes are tried again from the beginning.   $1 envelopes, null for all
update envelopes set state = 'pending', attempts = 0, next_attempt_at = statement_timestamp()
 where state = 'dead' and ($1::text[] is null or id = any($1))
returning id

-- mailboxes/put_off_challenge: records a failed challenge, and when the next one is due.
-- $1 member   $2 convo_id, or empty   $3 time at which it was set   $4 number of the challenge   $5 seconds
update mailboxes set challenge_at = statement_timestamp() + make_interval(secs => $5)
 where member_did = $1 and convo_id = $2 and updated_at = $3 and state = 'unverified' and challenges = $4

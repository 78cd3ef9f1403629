-- mailboxes/list_dead: returns dead envelopes, newest first.
-- $1 rows
select id, convo_id, recipient_did, seq, host, attempts, last_error, created_at from dead_envelopes
 order by created_at desc limit $1

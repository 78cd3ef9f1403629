-- dead_envelopes: envelopes that could not be delivered and are not retried, with the last reason.
-- catbird-server envelopes lists and requeues them.
create view dead_envelopes as
select id, convo_id, recipient_did, message_id, seq, host, attempts, last_error, created_at
  from envelopes
 where state = 'dead';
comment on view dead_envelopes is 'What could not be handed to a mailbox and is not tried any more.';

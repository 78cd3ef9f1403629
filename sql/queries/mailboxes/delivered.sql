-- mailboxes/delivered: marks an envelope as delivered, by whichever attempt.
-- $1 envelope
update envelopes set state = 'delivered', delivered_at = statement_timestamp(), last_error = null
 where id = $1 and state <> 'delivered'

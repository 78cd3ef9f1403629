-- mailboxes/dead: marks an envelope as dead. It is not retried unless an operator requeues it.
-- $1 envelope   $2 attempt   $3 reason
update envelopes set state = 'dead', last_error = $3
 where id = $1 and state = 'pending' and attempts = $2

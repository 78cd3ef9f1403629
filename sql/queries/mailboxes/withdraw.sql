-- mailboxes/withdraw: withdraws an envelope that its recipient no longer wants.
-- $1 envelope   $2 attempt
delete from envelopes where id = $1 and state = 'pending' and attempts = $2

-- mailboxes/withdraw: the recipient does not want it handed over any more.   $1 envelope   $2 attempt
delete from envelopes where id = $1 and state = 'pending' and attempts = $2

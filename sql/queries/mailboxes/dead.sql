-- mailboxes/dead: it is not tried any more, until an operator says so.   $1 envelope   $2 attempt   $3 why
update envelopes set state = 'dead', last_error = $3
 where id = $1 and state = 'pending' and attempts = $2

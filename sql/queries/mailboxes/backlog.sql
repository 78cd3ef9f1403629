-- mailboxes/backlog: how many envelopes wait, and how many are dead, each counted up to a limit.   $1 limit
select (select count(*) from (select from envelopes where state = 'pending' limit $1) p) as pending,
       (select count(*) from (select from envelopes where state = 'dead' limit $1) d) as dead

-- mailboxes/backlog: counts waiting and dead envelopes, each up to a limit.
-- $1 limit
select (select count(*) from (select from envelopes where state = 'pending' limit $1) p) as pending,
       (select count(*) from (select from envelopes where state = 'dead' limit $1) d) as dead

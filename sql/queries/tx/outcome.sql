-- tx/outcome: returns the outcome of a transaction whose COMMIT was not answered: committed, aborted, in progress, or
-- null if it is too old; and whether its incarnation is the present one, so that the id still belongs to that
-- transaction.
-- $1 xid   $2 its incarnation
select pg_xact_status($1::text::xid8) as status, exists (select from present_incarnation where id = $2) as same_id

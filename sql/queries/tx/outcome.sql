-- tx/outcome: what became of a transaction whose COMMIT was not answered: committed, aborted, in progress, or null if too old.
-- $1 xid
select pg_xact_status($1::text::xid8) as status

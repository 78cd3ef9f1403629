-- tx/outcome: what became of a transaction whose COMMIT was not answered: committed, aborted, in progress, or null if too old;
-- and whether PostgreSQL surely has not crashed since, so that the id still is that transaction's.   $1 xid   $2 when it began
with witness as (insert into crash_witness default values on conflict do nothing)
select pg_xact_status($1::text::xid8) as status, exists (select from crash_witness where since < $2) as same_id

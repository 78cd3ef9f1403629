-- tx/name: names the transaction, for one that takes no conversation's lock.
select pg_current_xact_id()::text as xid, now() as begun

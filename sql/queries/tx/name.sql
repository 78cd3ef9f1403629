-- tx/name: returns the id of a transaction that takes no conversation lock, and its incarnation: null if that has not
-- begun, and then nothing may be written.
select pg_current_xact_id()::text as xid, (select id from present_incarnation) as incarnation

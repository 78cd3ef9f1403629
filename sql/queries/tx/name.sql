-- tx/name: names the transaction, for one that takes no conversation's lock, and the incarnation that its name belongs to: null if that
-- has not begun yet, and then nothing may be written.
select pg_current_xact_id()::text as xid, (select id from present_incarnation) as incarnation

-- suspensions/list: returns suspended DIDs, the latest first.
-- $1 maximum number of rows
select did, reason, suspended_at from suspensions order by suspended_at desc, did limit $1

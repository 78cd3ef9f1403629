-- suspensions/count: counts those of some DIDs that are suspended.
-- $1 dids
select count(*) as suspended from suspensions where did = any ($1)

-- suspensions/lift: lifts suspensions.
-- $1 dids
delete from suspensions where did = any ($1) returning did

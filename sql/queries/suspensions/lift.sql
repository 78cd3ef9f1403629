-- suspensions/lift: ends suspensions.   $1 dids
delete from suspensions where did = any ($1) returning did

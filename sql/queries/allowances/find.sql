-- allowances/find: returns what all replicas have used of accounts whose window has not ended, and the seconds until it ends.
-- $1 quotas   $2 key of all of them
select quota, key, used, extract(epoch from ends_at - statement_timestamp())::float8 as ends_in
  from allowances where quota = any($1) and key = $2 and ends_at > statement_timestamp()

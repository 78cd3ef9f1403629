-- allowances/settle: adds what a replica has used to accounts, and says what each has come to and for how many seconds that counts. A
-- window that is over begins anew. In one order for everybody, so that two replicas cannot wait for each other in a circle.
-- In step, no account twice: $1 quotas   $2 keys   $3 used   $4 seconds of a window
insert into allowances (quota, key, used, ends_at)
select quota, key, used, statement_timestamp() + make_interval(secs => seconds)
  from unnest($1::text[], $2::bytea[], $3::bigint[], $4::float8[]) u (quota, key, used, seconds)
 order by quota, key
on conflict (quota, key) do update
   set used = case when allowances.ends_at > statement_timestamp() then allowances.used else 0 end + excluded.used,
       ends_at = case when allowances.ends_at > statement_timestamp() then allowances.ends_at else excluded.ends_at end
returning quota, key, used, extract(epoch from ends_at - statement_timestamp())::float8 as ends_in

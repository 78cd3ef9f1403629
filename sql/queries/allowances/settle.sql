-- allowances/settle: adds a replica's usage to accounts, and returns each total and the seconds until its window ends.
-- A window that has ended starts again. All replicas lock accounts in one order, so that they cannot deadlock.
-- In step, no account twice: $1 quotas   $2 keys   $3 used   $4 seconds of a window
insert into allowances (quota, key, used, ends_at)
select quota, key, used, statement_timestamp() + make_interval(secs => seconds)
  from unnest($1::text[], $2::bytea[], $3::bigint[], $4::float8[]) u (quota, key, used, seconds)
 order by quota, key
on conflict (quota, key) do update
   set used = case when allowances.ends_at > statement_timestamp() then allowances.used else 0 end + excluded.used,
       ends_at = case when allowances.ends_at > statement_timestamp() then allowances.ends_at else excluded.ends_at end
returning quota, key, used, extract(epoch from ends_at - statement_timestamp())::float8 as ends_in

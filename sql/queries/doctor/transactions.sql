-- doctor/transactions: returns transactions that have been open for long and hold up others: those that wrote, and prepared ones.
-- Of other roles' transactions, only a role with pg_read_all_stats sees the time.
-- $1 seconds
select 'prepared transaction ' || gid as name, extract(epoch from clock_timestamp() - prepared)::float8 as age
  from pg_prepared_xacts where prepared < clock_timestamp() - make_interval(secs => $1)
union all
select format('transaction of backend %s (%s)', pid, application_name), extract(epoch from clock_timestamp() - xact_start)::float8
  from pg_stat_activity
 where xact_start < clock_timestamp() - make_interval(secs => $1) and backend_xid is not null and pid <> pg_backend_pid()
 order by age desc

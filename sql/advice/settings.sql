-- Settings of PostgreSQL that break a promise of the server, and other obstacles to its work.
select 'fsync is off: a crash of the machine loses what was answered with 200' as advice
 where current_setting('fsync') = 'off'
union all
select 'full_page_writes is off: a crash of the machine may leave torn pages, and so lose what was answered with 200'
 where current_setting('full_page_writes') = 'off'
union all
select 'synchronous_commit is off: servers of this build raise it to local for themselves, and no other client does'
 where current_setting('synchronous_commit') = 'off'
union all
select format('the prepared transaction %s is %s old: until it ends, nothing after it is read as settled, and no dead row is removed',
              gid, now() - prepared)
  from pg_prepared_xacts where prepared < now() - interval '1 minute'
union all
select format('the transaction of backend %s (%s) is %s old: until it ends, nothing after it is read as settled',
              pid, application_name, now() - xact_start)
  from pg_stat_activity
 where xact_start < now() - interval '1 minute' and backend_xid is not null and pid <> pg_backend_pid()

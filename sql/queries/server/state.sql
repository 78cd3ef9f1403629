-- server/state: returns what delays or endangers all users of this PostgreSQL server: its size, the age of transaction ids that
-- are not frozen (PostgreSQL manual 25.1.5), the oldest open transaction, the connections, and the sessions that wait for a
-- lock. Of the transactions and waits of other roles, only a role with pg_read_all_stats sees anything.
select pg_database_size(current_database()) as bytes,
       (select max(age(datfrozenxid))::int8 from pg_database) as transaction_id_age,
       coalesce((select extract(epoch from clock_timestamp() - min(begun))
                   from (select xact_start as begun from pg_stat_activity
                          where pid <> pg_backend_pid() and (backend_xid is not null or backend_xmin is not null)
                            and backend_type = 'client backend'
                         union all select prepared from pg_prepared_xacts) as open), 0)::float8 as oldest_transaction,
       (select sum(numbackends)::int8 from pg_stat_database) as sessions,
       current_setting('max_connections')::int8 as max_sessions,
       (select count(*) from pg_stat_activity where wait_event_type = 'Lock') as lock_waiters

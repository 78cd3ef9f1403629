-- doctor/server: returns what this PostgreSQL server, this database and this role are. Of the catalog's newer columns, older
-- versions have none.
select current_setting('server_version_num')::int4 as version, pg_is_in_recovery() as is_standby,
       pg_encoding_to_char(d.encoding)::text as encoding,
       coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') as provider,
       coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', d.datcollate) as locale,
       r.rolname::text as role, r.rolsuper as is_superuser,
       least(current_setting('max_connections')::int8 - current_setting('superuser_reserved_connections')::int8
               - coalesce(current_setting('reserved_connections', true)::int8, 0),
             nullif(r.rolconnlimit, -1), nullif(d.datconnlimit, -1)) as connections,
       current_setting('max_locks_per_transaction')::int8
         * (current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8) as locks,
       current_setting('synchronous_standby_names') as standbys,
       current_setting('synchronous_commit') in ('on', 'remote_write', 'remote_apply')
         and current_setting('synchronous_standby_names') <> ''
         and not exists (select from pg_stat_replication where coalesce(sync_state, 'sync') in ('sync', 'quorum')) as lacks_standby
  from pg_database d
  join pg_roles r on r.rolname = current_user
 where d.datname = current_database()

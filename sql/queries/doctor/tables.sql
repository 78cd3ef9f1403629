-- doctor/tables: returns the server's tables with the numbers of their rows and dead rows, the seconds since they were last
-- vacuumed, and whether autovacuum leaves them out. The slots of used tokens are left out: they are emptied whole.
select c.relname::text as name, pg_stat_get_live_tuples(c.oid) as rows, pg_stat_get_dead_tuples(c.oid) as dead,
       extract(epoch from clock_timestamp()
         - greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid)))::float8 as vacuumed,
       exists (select from pg_options_to_table(c.reloptions)
                where option_name = 'autovacuum_enabled' and option_value in ('false', 'off', 'no', '0')) as is_left_out
  from pg_class c
 where c.relnamespace = to_regnamespace(quote_ident(current_schema())) and c.relkind = 'r'
   and not exists (select from pg_inherits i where i.inhrelid = c.oid and i.inhparent = to_regclass('used_tokens'))
 order by 1

-- server/tables: returns each table that this server may read with its size, indexes included, and the number of its dead
-- rows.
select relname::text as name, pg_total_relation_size(oid) as bytes, pg_stat_get_dead_tuples(oid) as dead_rows
  from pg_class
 where relnamespace = to_regnamespace(quote_ident(current_schema())) and relkind = 'r' and has_table_privilege(oid, 'SELECT')
 order by 1

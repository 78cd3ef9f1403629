-- server/tables: returns each table of this server with its size, indexes included, and the number of its dead rows. Other
-- tables of the schema are left out.
select relname::text as name, pg_total_relation_size(oid) as bytes, pg_stat_get_dead_tuples(oid) as dead_rows
  from pg_class
 where relnamespace = to_regnamespace(quote_ident(current_schema())) and relkind = 'r' and pg_has_role(relowner, 'USAGE')
 order by 1

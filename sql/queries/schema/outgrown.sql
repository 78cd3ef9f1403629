-- schema/outgrown: returns the small tables of this server that have at least doubled since PostgreSQL last counted
-- them. Names are quoted where necessary. Other tables of the schema are left alone.
-- $1 size in pages from which on a table is not small   $2 size in pages below which every plan costs the same
select quote_ident(t.relname) as name
  from pg_class t
 where t.relnamespace = to_regnamespace(quote_ident(current_schema())) and t.relkind = 'r' and pg_has_role(t.relowner, 'USAGE')
   and t.relpages < $1
   and pg_relation_size(t.oid) / current_setting('block_size')::bigint >= 2 * greatest(t.relpages, $2)
 order by 1

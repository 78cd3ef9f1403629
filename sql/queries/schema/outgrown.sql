-- schema/outgrown: tables of ours that have at least doubled since PostgreSQL last counted them, while they are small.
-- $1 pages from which on a table is not small any more   $2 pages below which nothing matters
select t.relname::text as name
  from pg_class t
 where t.relnamespace = current_schema()::regnamespace and t.relkind = 'r' and t.relpages < $1
   and pg_relation_size(t.oid) / current_setting('block_size')::bigint >= 2 * greatest(t.relpages, $2)
 order by 1

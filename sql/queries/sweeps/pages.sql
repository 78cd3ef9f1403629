-- sweeps/pages: how many pages a table has.   $1 table
select pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint as pages

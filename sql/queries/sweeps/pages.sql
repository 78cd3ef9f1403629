-- sweeps/pages: returns the number of pages of a table.
-- $1 table
select pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint as pages

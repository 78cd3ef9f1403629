-- doctor/objects: returns the indexes, constraints and triggers of the server's tables: whether each guards the rows, or only
-- makes reading fast, and whether it is in force.
with tables as (
  select oid, relname::text as name from pg_class
   where relnamespace = to_regnamespace(quote_ident(current_schema())) and relkind in ('r', 'p')
)
select 'index' as kind, t.name as table, c.relname::text as name, i.indisunique as guards, i.indisvalid and i.indisready as in_force
  from pg_index i join tables t on t.oid = i.indrelid join pg_class c on c.oid = i.indexrelid
union all
-- A foreign key is enforced by triggers.
select 'constraint', t.name, c.conname::text, true,
       not exists (select from pg_trigger g where g.tgconstraint = c.oid and g.tgenabled not in ('O', 'A'))
  from pg_constraint c join tables t on t.oid = c.conrelid
 where c.contype in ('c', 'f')
union all
select 'trigger', t.name, g.tgname::text, true, g.tgenabled in ('O', 'A')
  from pg_trigger g join tables t on t.oid = g.tgrelid
 where not g.tgisinternal
 order by 1, 2, 3

-- What a build relies on in a schema, and what it has to satisfy, one fact a row. The views that a build makes at its start are not in it.
--
-- relied_on: if such a fact is gone, statements of the previous build fail.
-- Otherwise: if such a fact is new, and the fact in "of" was there before, writes of the previous build may be refused.
with relations as (
  select c.oid, c.relname::text as name, 'relation ' || c.relname as fact, c.relkind <> 'v' as is_table from pg_class c
   where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v') and c.relname <> 'refinery_schema_history'
), columns as (
  select format('%s.%s', r.name, a.attname) as name, format('column %s.%s %s', r.name, a.attname, format_type(a.atttypid, a.atttypmod)) as fact,
         r.fact as relation, r.is_table and a.attnotnull as is_not_null,
         r.is_table and a.attnotnull and not a.atthasdef and a.attidentity = '' as is_required
    from relations r join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
), uniques as (
  -- on conflict (…) names the columns of a unique index.
  select r.fact as relation, format('unique %s (%s', r.name, substring(pg_get_indexdef(i.indexrelid) from ' USING \w+ \((.*)$')) as fact
    from relations r join pg_index i on i.indrelid = r.oid where i.indisunique
)
select fact as of, fact, true as relied_on from relations
union all
select relation, fact, true from columns
union all
select relation, fact, true from uniques
union all
select '', format('function %s returns %s', p.oid::regprocedure, pg_get_function_result(p.oid)), true
  from pg_proc p where p.pronamespace = 'public'::regnamespace and p.prorettype <> 'trigger'::regtype
union all
select relation, 'required ' || name, false from columns where is_required
union all
select fact, 'not null ' || name, false from columns where is_not_null
union all
select relation, fact, false from uniques
union all
select r.fact, format('constraint %s %s', c.conname, replace(pg_get_constraintdef(c.oid), ' NOT VALID', '')), false
  from relations r join pg_constraint c on c.conrelid = r.oid where c.contype in ('c', 'f', 'x')
union all
select r.fact, pg_get_triggerdef(t.oid), false from relations r join pg_trigger t on t.tgrelid = r.oid where not t.tgisinternal

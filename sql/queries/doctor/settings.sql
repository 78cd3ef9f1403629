-- doctor/settings: returns settings as this session has them, with where each comes from; and settings that other roles have
-- of their own, here or in all databases.
-- $1 names of settings   $2 roles
select name, setting as value, source, null as role from pg_settings where name = any ($1)
union all
select split_part(entry, '=', 1), substr(entry, strpos(entry, '=') + 1), 'user', r.rolname::text
  from pg_db_role_setting s
  join pg_roles r on r.oid = s.setrole and r.rolname = any ($2) and r.rolname <> current_user
  cross join unnest(s.setconfig) as entry
 where split_part(entry, '=', 1) = any ($1)
   and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
 order by name, role nulls first

-- Three roles instead of one: the owner applies migrations, the application reads and writes rows, and DBAs read.
--
-- Run it in the server's database: as a superuser before the first `catbird-server migrate`, and as catbird_owner after each one; it may
-- be repeated.
-- Then: \password catbird_owner, \password catbird_app, \password catbird_dba. docs/postgres.md describes how the roles are used.

do $$
declare
  needed name;
begin
  foreach needed in array array['catbird_owner', 'catbird_app', 'catbird_dba'] loop
    if to_regrole(needed::text) is null then
      execute format('create role %I login nosuperuser nocreatedb nocreaterole noreplication', needed);
    end if;
  end loop;
  execute format('alter database %I owner to catbird_owner', current_database());
  execute format('revoke all on database %I from public', current_database());
  execute format('grant connect on database %I to catbird_app, catbird_dba', current_database());
end $$;

alter schema public owner to catbird_owner;
revoke all on schema public from public;
grant usage on schema public to catbird_app, catbird_dba;

-- Tables and views that exist, and those of later migrations.
grant select, insert, update, delete on all tables in schema public to catbird_app;
grant select on all tables in schema public to catbird_dba;
alter default privileges for role catbird_owner in schema public grant select, insert, update, delete on tables to catbird_app;
alter default privileges for role catbird_owner in schema public grant select on tables to catbird_dba;
-- The views of the earlier server.
alter default privileges for role catbird_owner grant usage on schemas to catbird_dba;
alter default privileges for role catbird_owner grant select on tables to catbird_dba;

-- DBAs also see the statements and locks of other roles. They cannot write, even where a function would. Only a superuser can set this up.
do $$
begin
  if (select rolsuper from pg_roles where rolname = current_user) then
    grant pg_monitor to catbird_dba;
    alter role catbird_dba set default_transaction_read_only = on;
    alter role catbird_dba set statement_timeout = '1min';
  end if;
end $$;

-- What remains once there are tables: only migrations write their own history, nobody changes the record of operators, no DBA reads keys, and two functions that need more
-- rights than the application has run with those of the owner.
do $$
declare
  secret record;
  columns text;
begin
  if to_regclass('public.refinery_schema_history') is null then
    return;
  end if;
  if to_regnamespace('legacy') is not null then
    grant usage on schema legacy to catbird_dba;
    grant select on all tables in schema legacy to catbird_dba;
  end if;
  revoke insert, update, delete on public.refinery_schema_history from catbird_app;
  -- What operators did stays recorded.
  if to_regclass('public.admin_audit') is not null then
    revoke update, delete on public.admin_audit from catbird_app;
  end if;
  for secret in select * from (values ('mailboxes', 'secret'), ('caller_names', 'key'), ('incarnations', 'cursor_key')) s (tab, col) loop
    execute format('revoke select on public.%I from catbird_dba', secret.tab);
    select string_agg(quote_ident(attname), ', ' order by attnum) into columns from pg_attribute
     where attrelid = ('public.' || secret.tab)::regclass and attnum > 0 and not attisdropped and attname <> secret.col;
    execute format('grant select (%s) on public.%I to catbird_dba', columns, secret.tab);
  end loop;
  revoke execute on function public.renew_incarnation(), public.empty_used_tokens(integer) from public;
  grant execute on function public.renew_incarnation(), public.empty_used_tokens(integer) to catbird_app;
end $$;

-- Suspended DIDs: whom an operator has shut out (catbird-server suspensions). Every replica reads them.

create table suspensions (
  did          text        not null,
  reason       text        not null,                    -- for operators; nobody else is told
  suspended_at timestamptz not null default now(),
  constraint suspensions_pkey primary key (did),
  constraint suspensions_reason_check check (octet_length(reason) between 1 and 1000)
);

-- Another one after every change of that table, whoever makes it, so that those who look for changes read one row. No number, since a
-- database that was restored would come to the same numbers again.
create table suspensions_version (
  only_row boolean not null default true,
  version  uuid    not null default gen_random_uuid(),
  constraint suspensions_version_pkey primary key (only_row),
  constraint suspensions_version_only_row_check check (only_row)
);
insert into suspensions_version default values;

create function suspensions_changed() returns trigger language plpgsql as $$
begin
  update suspensions_version set version = gen_random_uuid();
  return null;
end $$;

create trigger suspensions_changed after insert or update or delete or truncate on suspensions
  for each statement execute function suspensions_changed();

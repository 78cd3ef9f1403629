-- Replicas that serve, so that one of them, or an operator's command, can compare them (catbird-server doctor).

-- Unlogged: a replica that lives writes its row again within half a minute.
create unlogged table replicas (
  id          text        not null,
  version     text        not null,
  role        text        not null default current_user,
  connections integer     not null,
  settings    jsonb       not null,
  started_at  timestamptz not null default clock_timestamp(),
  seen_at     timestamptz not null default clock_timestamp(),
  constraint replicas_pkey primary key (id),
  constraint replicas_connections_check check (connections > 0)
) with (fillfactor = 50);

comment on table replicas is
  'Replicas that serve. Each writes its row every 30 seconds and deletes it when it stops; catbird-server doctor compares them.';
comment on column replicas.id is 'ULID of the process';
comment on column replicas.version is 'Version of the program';
comment on column replicas.role is 'Role with which it serves';
comment on column replicas.connections is 'Most connections that it opens, the one that listens for notifications included';
comment on column replicas.settings is 'Settings that all replicas should have alike; of secrets a hash with the key of caller_names';
comment on column replicas.started_at is 'Time of its first row';
comment on column replicas.seen_at is 'Time at which it was last alive';

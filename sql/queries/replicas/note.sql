-- replicas/note: notes that a replica serves, and deletes the rows of those that died an hour ago.
-- $1 id   $2 version   $3 most connections   $4 settings
with gone as (
  delete from replicas where seen_at < clock_timestamp() - interval '1 hour' and id <> $1
)
insert into replicas (id, version, connections, settings) values ($1, $2, $3, $4)
on conflict (id) do update set connections = excluded.connections, settings = excluded.settings, seen_at = excluded.seen_at

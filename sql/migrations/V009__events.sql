-- Events beside the log, made anew: nothing ever wrote the old table. The log itself is never copied here, an entry is its own
-- event. One row tells everybody in a conversation, or one person; what each member is sent is derived from it.

drop view if exists legacy.event_stream;
drop table event_stream;

create table event_stream (
  id            bigint generated always as identity,    -- within a conversation in commit order: drawn while the conversation is held
  convo_id      text,                                   -- null if it is about no conversation
  recipient_did text,                                   -- null: all members of the conversation
  event_type    text not null,
  payload       jsonb not null,
  tx            xid8 not null default pg_current_xact_id(), -- who wrote it, for the tail and for resuming
  emitted_at    timestamptz not null default now(),
  constraint event_stream_pkey primary key (id),
  constraint event_stream_audience_check check (convo_id is not null or recipient_did is not null),
  constraint event_stream_type_check check (event_type in ('joined', 'left', 'removed', 'read', 'cursor', 'keyPackagesLow'))
);

create index event_stream_tx_idx on event_stream (tx);
create index event_stream_convo_idx on event_stream (convo_id, tx) where recipient_did is null;
create index event_stream_recipient_idx on event_stream (recipient_did, tx) where recipient_did is not null;

-- How far back a cursor may lie. Whoever deletes events moves it, whether it wants to or not, so that a client that comes back
-- later than that is told instead of missing them.
create table event_horizon (
  only_row boolean not null default true,
  tx       xid8 not null default '0',                   -- events of transactions below may be gone
  constraint event_horizon_pkey primary key (only_row),
  constraint event_horizon_only_row_check check (only_row)
);

insert into event_horizon default values;

create function move_event_horizon() returns trigger language plpgsql as $$
begin
  -- There is no max(xid8) before PostgreSQL 18. Numbers that this cluster has not given out came with a dump, and no cursor has one.
  update event_horizon h set tx = d.tx
    from (select (g.tx::text::bigint + 1)::text::xid8 as tx from gone g
           where g.tx < pg_snapshot_xmax(pg_current_snapshot()) order by g.tx desc limit 1) d
   where h.tx < d.tx;
  return null;
end $$;

create trigger event_stream_horizon after delete on event_stream referencing old table as gone
  for each statement execute function move_event_horizon();

-- What is left of a log whose beginning was deleted, and what the sweepers remember.

-- Where a log begins. No application message before this seq is kept; of the commits before it, those that some member has yet
-- to read. A table of its own, because conversations is the row that everybody writes. No row: nothing was deleted.
create table log_starts (
  convo_id text not null,
  seq      bigint not null,
  constraint log_starts_pkey primary key (convo_id),
  constraint log_starts_seq_check check (seq > 1)
);

-- Commits whose bytes are gone. What is left recognises the same bytes for ever and shows how each epoch was reached.
create table retired_commits (
  convo_id   text not null,
  epoch      bigint not null,                           -- the one that it created
  seq        bigint not null,
  sender_did text not null,
  body_hash  bytea not null,                            -- SHA-256 of its bytes
  constraint retired_commits_pkey primary key (convo_id, epoch),
  constraint retired_commits_bytes_key unique (convo_id, body_hash)
);

-- One row for each kind of sweep: when it last ran, and up to when its work may have been done.
create table sweeps (
  job         text not null,
  cutoff      timestamptz,                              -- what is older may be gone; written before the first deletion, never goes back
  started_at  timestamptz not null,
  finished_at timestamptz,                              -- null while it runs, or if its replica died
  deleted     bigint not null default 0,                -- rows of the last pass, so far
  constraint sweeps_pkey primary key (job)
);

-- A log that is shortened takes events away as event_stream does: an entry is its own event.
create trigger messages_horizon after delete on messages referencing old table as gone
  for each statement execute function move_event_horizon();

-- Sweepers take a table from its first page to its last, by ranges of tids, and logs by their primary key. Nobody else asks for
-- age. So no index has to know it, not even the small one that V008 made for nonces, and no request pays for keeping one.
drop index idempotency_records_age_idx;
drop index auth_nonces_age_idx;

-- Positions, events beside the log, and hand-over to mailboxes.

create table cursors (
  user_did         text not null,
  convo_id         text not null,
  last_seen_cursor text not null,                       -- ULID; moves forward only
  updated_at       timestamptz not null default now(),
  constraint cursors_pkey primary key (user_did, convo_id),
  constraint cursors_member_fkey foreign key (convo_id, user_did) references members (convo_id, member_did)
);

create table event_stream (
  id         text not null,                             -- ULID
  convo_id   text not null,
  event_type text not null,
  payload    jsonb not null,
  tx         xid8 not null default pg_current_xact_id(),
  emitted_at timestamptz not null default now(),
  constraint event_stream_pkey primary key (id)
);

create index event_stream_tx_idx on event_stream (tx, id);

create table envelopes (
  id            text not null,                          -- ULID
  convo_id      text not null,
  recipient_did text not null,
  message_id    text not null,
  created_at    timestamptz not null default now(),
  delivered_at  timestamptz,
  constraint envelopes_pkey primary key (id),
  constraint envelopes_recipient_key unique (convo_id, recipient_did, message_id)
);

create table blobs (
  key          text not null,
  content_type text not null,
  size_bytes   bigint not null,
  ref_count    bigint not null default 0,
  created_at   timestamptz not null default now(),
  constraint blobs_pkey primary key (key),
  constraint blobs_size_check check (size_bytes >= 0),
  constraint blobs_ref_count_check check (ref_count >= 0)
);

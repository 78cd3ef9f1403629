-- What ends of itself: commits that somebody never reads, and conversations that nobody comes back to.

alter table retired_commits
  add column unread boolean not null default false;     -- it went for its age, although somebody had yet to read it

alter table conversations
  add column ended_at timestamptz;                      -- when its last members were let go; its rows follow later

-- The groups of conversations that have ended. A group id is taken once: whoever kept commits of the old group must not find another
-- one under its name. Written when the conversation ends, long before its row goes.
create table ended_groups (
  group_id_hash bytea       not null,                   -- SHA-256 of the group id as conversations have it
  ended_at      timestamptz not null default now(),
  constraint ended_groups_pkey primary key (group_id_hash)
);

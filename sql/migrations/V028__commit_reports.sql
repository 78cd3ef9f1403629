-- Trouble with commits, as members report it: which commit of an epoch each has, whether it could apply it, and where that led it.

-- The MLS group of a conversation may be replaced by another. A constant default, so no row is rewritten.
alter table conversations
  add column generation bigint not null default 1,      -- number of its present group, from 1 on
  add constraint conversations_generation_check check (generation >= 1) not valid;

create table commit_reports (
  convo_id            text        not null,
  generation          bigint      not null,             -- of the group that the commit is of
  epoch               bigint      not null,             -- the one that the commit creates
  member_did          text        not null,             -- the member that reports
  commit_hash         bytea       not null,             -- SHA-256 of the commit that it has
  epoch_authenticator bytea,                            -- of the epoch that the commit led it to (RFC 9420, section 8.7)
  applied             boolean     not null,             -- whether it could apply the commit
  is_newest           boolean     not null,             -- it is the member's report of the latest epoch
  fork_told           boolean     not null default false, -- members were told of a fork of the epoch when it came
  reported_at         timestamptz not null default now(),
  constraint commit_reports_pkey primary key (convo_id, generation, member_did, epoch),
  constraint commit_reports_epoch_check check (epoch >= 1),
  constraint commit_reports_hash_check check (octet_length(commit_hash) = 32),
  constraint commit_reports_authenticator_check check (octet_length(epoch_authenticator) between 1 and 64)
);

create index commit_reports_epoch_idx on commit_reports (convo_id, generation, epoch);
create index commit_reports_unable_idx on commit_reports (convo_id, generation) where is_newest and not applied;
-- Members are told of a fork once for each epoch.
create unique index commit_reports_fork_key on commit_reports (convo_id, generation, epoch) where fork_told;

-- Not a column of conversations, which is the row that every write updates.
create table wedged_convos (
  convo_id   text        not null,
  generation bigint      not null,                      -- of the group that members cannot follow
  epoch      bigint      not null,                      -- the conversation's when a quorum of them had said so
  since      timestamptz not null default now(),
  constraint wedged_convos_pkey primary key (convo_id)
);

-- Rows that are there satisfied the narrower list, so none is read.
alter table event_stream
  drop constraint event_stream_type_check,
  add constraint event_stream_type_check
    check (event_type in ('joined', 'left', 'removed', 'read', 'cursor', 'keyPackagesLow', 'mailbox', 'fork', 'wedged')) not valid;

comment on table commit_reports is
  'What members report about commits: the bytes that they have, and whether they could apply them.';
comment on table wedged_convos is
  'Conversations in which a quorum of the members cannot apply the commits.';

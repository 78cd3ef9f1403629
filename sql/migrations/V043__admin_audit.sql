-- Administration by operators (catbird-server admin): the record of what they did and read, and the indexes that find the rows of a person.

create table admin_audit (
  id      bigint generated always as identity,
  run     text        not null,                         -- ULID of one execution of a command, which has at most one row of each stage
  stage   text        not null,
  command text        not null,
  target  text        not null,
  reason  text        not null,
  os_user text        not null,
  host    text        not null,
  db_role text        not null default current_user,
  at      timestamptz not null default clock_timestamp(),
  counts  jsonb,
  constraint admin_audit_pkey primary key (id),
  constraint admin_audit_run_key unique (run, stage),
  constraint admin_audit_stage_check check (stage in ('begun', 'finished')),
  constraint admin_audit_counts_check check ((stage = 'finished') = (counts is not null)),
  constraint admin_audit_reason_check check (octet_length(reason) between 1 and 1000)
);

create index admin_audit_target_idx on admin_audit (target);

comment on table admin_audit is
  'What operators did and read with catbird-server admin, and why. Rows are added, never changed or deleted.';
comment on column admin_audit.id is 'Number of the row';
comment on column admin_audit.run is 'ULID of one execution of a command';
comment on column admin_audit.stage is 'begun, before anything was read or changed, or finished; a run without the second stage failed or was interrupted';
comment on column admin_audit.command is 'Command, such as erase';
comment on column admin_audit.target is 'DID or conversation that the command was about';
comment on column admin_audit.reason is 'Reason that the operator gave';
comment on column admin_audit.os_user is 'User of the operating system that ran the command';
comment on column admin_audit.host is 'Host on which the command ran';
comment on column admin_audit.db_role is 'PostgreSQL role that the command used';
comment on column admin_audit.at is 'Time of the stage';
comment on column admin_audit.counts is 'What was found or changed, as numbers; null while the stage is begun';

-- Conversations that a person has left.
create index members_former_idx on members (member_did, convo_id) where left_at is not null;
-- Packages of an owner that were issued or used, and used packages by the caller that they were issued to. Each is written when a package is
-- issued or used, which writes other indexes of the table anyway.
create index key_packages_spent_idx on key_packages (owner_did) where claimed_by is not null or consumed_at is not null;
create index key_packages_user_idx on key_packages (claimed_by) where claimed_by <> '' and consumed_at is not null;

-- What an erasure or a deletion by an operator leaves in columns that exist.
comment on column conversations.creator_did is
  'DID of the member that created the conversation, or to which its right passed when that one was erased; empty if nobody was left';
comment on column conversations.ended_at is
  'Time at which the last members were removed, by retention or an operator; the rows are deleted later. Null while the conversation exists';
comment on column members.left_by is
  'DID that ended the membership: the member itself, or the one that removed it, unless that one was erased';
comment on column messages.ciphertext is 'MLS bytes, opaque to the server; empty once an operator has deleted the conversation';
comment on column key_packages.owner_did is 'DID of the owner; empty once it was erased';
comment on column key_packages.claimed_by is 'DID of the caller that it was issued to; empty once that is not needed, or the caller was erased';
comment on column group_infos.signer_did is 'DID of the member that signed and sent it; empty once it was erased';

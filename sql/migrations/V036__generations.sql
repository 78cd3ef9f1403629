-- A conversation whose members can no longer follow its MLS group gets another group, a generation later. The log and its seq go on.
-- The epoch begins anew, so from here on a commit is known by its generation and epoch.
--
-- An earlier build writes entries of the first generation only, because the column has that default. The trigger refuses them in a
-- conversation that is in a later one. So such a replica can do nothing there, and nothing wrong.

alter table conversations
  add column group_seq bigint not null default 0,       -- seq of the entry that began its present group; 0 for the first
  add constraint conversations_group_seq_check check (group_seq between 0 and last_seq) not valid;

alter table messages
  add column generation bigint not null default 1;      -- of the group that it was made in; a reset begins that group
alter table welcome_messages
  add column generation bigint not null default 1;      -- of the group that it leads into

-- Every existing row satisfies the new check, because it satisfies the old one.
alter table messages
  drop constraint messages_type_check,
  add constraint messages_type_check check (message_type in ('app', 'commit', 'proposal', 'reset')) not valid;
comment on column messages.message_type is 'app, commit, proposal or reset';
comment on column messages.body_hash is 'SHA-256 of the bytes of a commit, proposal or reset; null for an application message';

-- One winner for each epoch of each generation. Queries by epoch use the index as before.
drop index messages_commit_epoch_key;
create unique index messages_commit_epoch_key on messages (convo_id, epoch, generation) where message_type = 'commit';

-- The generation of a commit whose bytes are gone follows from its seq.
alter table retired_commits
  drop constraint retired_commits_pkey,
  add constraint retired_commits_pkey primary key (convo_id, seq);
create index retired_commits_epoch_idx on retired_commits (convo_id, epoch);

-- The groups that a conversation had before. Entries from first_seq to last_seq belong to each.
create table past_groups (
  convo_id      text        not null,
  generation    bigint      not null,
  group_id      text        not null,                   -- MLS group id in lower-case hex
  cipher_suite  text        not null,
  initial_epoch bigint      not null,                   -- the epoch that it began in
  final_epoch   bigint      not null,                   -- the epoch that it ended in
  first_seq     bigint      not null,                   -- of the entry that began it; 0 for the first group
  last_seq      bigint      not null,                   -- of its last entry
  ended_at      timestamptz not null default now(),
  constraint past_groups_pkey primary key (convo_id, generation),
  constraint past_groups_group_key unique (group_id),
  constraint past_groups_seq_check check (last_seq >= first_seq)
);

-- A position never goes back. Within a generation the epoch advances by one, together with an entry, and the group stays the same. The
-- next generation begins at any epoch, with another group, together with one entry.
drop trigger conversations_position_check on conversations;
create trigger conversations_position_check before update on conversations
  for each row when (
    new.last_seq < old.last_seq
    or case when new.generation = old.generation
            then new.current_epoch not in (old.current_epoch, old.current_epoch + 1)
                 or (new.current_epoch > old.current_epoch and new.last_seq = old.last_seq)
                 or (new.group_id, new.initial_epoch, new.group_seq) is distinct from (old.group_id, old.initial_epoch, old.group_seq)
            else new.generation <> old.generation + 1
                 or new.last_seq <> old.last_seq + 1 or new.group_seq <> new.last_seq
                 or new.current_epoch <> new.initial_epoch or new.group_id = old.group_id
       end)
  execute function refuse_position();

-- Whoever begins a generation, the group before it is kept, and its id stays taken.
create function keep_past_group() returns trigger language plpgsql as $$
begin
  insert into past_groups (convo_id, generation, group_id, cipher_suite, initial_epoch, final_epoch, first_seq, last_seq)
  values (old.id, old.generation, old.group_id, old.cipher_suite, old.initial_epoch, old.current_epoch, old.group_seq, old.last_seq);
  insert into ended_groups (group_id_hash) values (sha256(convert_to(old.group_id, 'UTF8')));
  return null;
end $$;

create trigger conversations_generation after update of generation on conversations
  for each row when (old.generation <> new.generation) execute function keep_past_group();

-- A group id is taken once. A statement may have waited for the transaction that ended the group of this id, and its snapshot does not
-- show that; this function's does.
create function refuse_taken_group() returns trigger language plpgsql as $$
begin
  if exists (select from ended_groups where group_id_hash = sha256(convert_to(new.group_id, 'UTF8'))) then
    raise exception 'group % was used before', new.group_id
      using errcode = 'unique_violation', constraint = 'conversations_group_id_key';
  end if;
  return null;
end $$;

create trigger conversations_group_taken after insert or update of group_id on conversations
  for each row execute function refuse_taken_group();

-- Dense order, as before, within the generation that the conversation is in; and a reset is the entry that begins it.
create or replace function follow_predecessors() returns trigger language plpgsql as $$
declare
  wrong record;
begin
  -- Questions for one value each, which PostgreSQL can only answer row by row. With exists it may read the whole log instead: that
  -- looks cheap while the log is empty, and the plan is kept.
  select e.convo_id, e.seq, e.generation, e.epoch into wrong from entries e
   where (select e.seq <= c.last_seq and e.generation = c.generation
             and (e.message_type not in ('commit', 'reset') or e.epoch = c.current_epoch)
             and (e.message_type = 'reset') = (e.seq = c.group_seq)
             and (e.seq = 1 or (select true from messages m where m.convo_id = e.convo_id and m.seq = e.seq - 1))
            from conversations c where c.id = e.convo_id) is not true
   limit 1;
  if found then
    raise exception 'entry % of conversation % (generation %, epoch %) does not follow its predecessor, or is not where the conversation stands',
      wrong.seq, wrong.convo_id, wrong.generation, wrong.epoch
      using errcode = 'check_violation', constraint = 'messages_position_check';
  end if;
  return null;
end $$;

-- Members are told of a reset. Rows that are there satisfied the narrower list, so none is read.
alter table event_stream
  drop constraint event_stream_type_check,
  add constraint event_stream_type_check
    check (event_type in ('joined', 'left', 'removed', 'read', 'cursor', 'keyPackagesLow', 'mailbox', 'fork', 'wedged',
                          'groupInfoRequested', 'newDevice', 'deviceDeleted', 'readditionRequested', 'lastResortUsed', 'welcomeRejected', 'reset')) not valid;

comment on table past_groups is
  'The MLS groups that a conversation had before its present one.';

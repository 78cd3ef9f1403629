-- Conversations and their rosters.
--
-- conversations is the hot row: every accepted entry updates it. No column that changes has an index and pages keep room,
-- so that updates stay on their page (HOT). Nothing has a foreign key to it: the check would lock the row that everybody
-- writes. Texts of variable length live in conversation_metadata.

create table conversations (
  id            text not null,                          -- ULID made by the server
  group_id      text not null,                          -- MLS group id in lower-case hex
  creator_did   text not null,
  cipher_suite  text not null,                          -- MLS name of the suite (RFC 9420, 17.1)
  initial_epoch bigint not null,                        -- the epoch it was created at; commits exist for each later one
  current_epoch bigint not null,                        -- moves by one, by compare-and-swap, with a commit
  last_seq      bigint not null default 0,              -- seq of the newest entry; 0 in an empty log
  created_at    timestamptz not null default now(),
  updated_at    timestamptz not null default now(),     -- when the log or the roster last changed
  constraint conversations_pkey primary key (id),
  constraint conversations_group_id_key unique (group_id),
  constraint conversations_initial_epoch_check check (initial_epoch >= 0),
  constraint conversations_epoch_check check (current_epoch >= initial_epoch),
  constraint conversations_log_check check (last_seq >= current_epoch - initial_epoch)
) with (fillfactor = 70);

-- The key of a conversation's advisory lock, so that pg_locks can be read the other way round.
create index conversations_lock_key_idx on conversations (hashtextextended(id, 0));

-- A position never goes back, and an epoch moves by one and only together with an entry, whoever writes it.
create function refuse_position() returns trigger language plpgsql as $$
begin
  raise exception 'conversation % cannot move from epoch %, seq % to epoch %, seq %',
    old.id, old.current_epoch, old.last_seq, new.current_epoch, new.last_seq
    using errcode = 'check_violation', constraint = 'conversations_position_check';
end $$;

create trigger conversations_position_check before update on conversations
  for each row when (new.last_seq < old.last_seq
                     or new.current_epoch not in (old.current_epoch, old.current_epoch + 1)
                     or (new.current_epoch > old.current_epoch and new.last_seq = old.last_seq))
  execute function refuse_position();

create table conversation_metadata (
  convo_id    text not null,
  name        text,                                     -- shown to members
  description text,
  constraint conversation_metadata_pkey primary key (convo_id),
  constraint conversation_metadata_name_check check (length(name) <= 128),
  constraint conversation_metadata_description_check check (length(description) <= 512)
);

create table members (
  convo_id      text not null,
  member_did    text not null,
  joined_at     timestamptz not null default now(),
  joined_seq    bigint not null,                        -- sees only entries after this one
  joined_epoch  bigint not null,                        -- where the conversation stood then; sees the commits that follow
  left_at       timestamptz,                            -- null while a member
  left_by       text,                                   -- itself, or who removed it
  left_epoch    bigint,                                 -- where the conversation stood when it left
  left_seq      bigint,
  last_read_seq bigint not null,                        -- read position; moves forward only
  last_read_at  timestamptz,
  constraint members_pkey primary key (convo_id, member_did),
  constraint members_joined_check check (joined_seq >= 0 and joined_epoch >= 0),
  constraint members_read_check check (last_read_seq >= joined_seq),
  constraint members_left_check check ((left_at is null) = (left_by is null)
                                   and (left_at is null) = (left_epoch is null)
                                   and (left_at is null) = (left_seq is null))
) with (fillfactor = 80);

-- A person's conversations, for getConvos.
create index members_of_did_idx on members (member_did, convo_id) where left_at is null;

-- Welcomes. One MLS Welcome serves everybody it adds, so its bytes are stored once and each recipient has a row.

create table welcomes (
  id         text not null,                             -- ULID
  welcome    bytea not null,                            -- MLS bytes
  created_at timestamptz not null default now(),
  constraint welcomes_pkey primary key (id)
);

alter table welcomes alter column welcome set storage external;

create table welcome_messages (
  id               text not null,                       -- ULID
  convo_id         text not null,
  recipient_did    text not null,
  key_package_hash bytea,                               -- which key package opens it; null if the inviter did not say
  welcome_id       text,                                -- null once confirmed: the bytes are gone
  epoch            bigint not null,                     -- the epoch that the joiner starts in
  state            text not null default 'available',
  created_at       timestamptz not null default now(),
  confirmed_at     timestamptz,
  error_details    text,                                -- what the recipient said when it could not join
  constraint welcome_messages_pkey primary key (id),
  constraint welcome_messages_welcome_fkey foreign key (welcome_id) references welcomes (id),
  constraint welcome_messages_member_fkey foreign key (convo_id, recipient_did) references members (convo_id, member_did),
  constraint welcome_messages_state_check check (state in ('available', 'consumed')),
  constraint welcome_messages_consumed_check check ((state = 'consumed') = (welcome_id is null)
                                                and (state = 'consumed') = (confirmed_at is not null))
);

create unique index welcome_messages_recipient_key
  on welcome_messages (convo_id, recipient_did, coalesce(key_package_hash, ''::bytea)) where state = 'available';
create index welcome_messages_recipient_idx on welcome_messages (recipient_did, convo_id);
create index welcome_messages_welcome_idx on welcome_messages (welcome_id) where welcome_id is not null;

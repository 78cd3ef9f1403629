-- GroupInfos, with which members that lost their state come back by external commits.

create table group_infos (
  convo_id   text not null,
  epoch      bigint not null,                           -- the epoch of the GroupInfo; served only while the conversation is in it
  group_info bytea not null,                            -- as its signer sent it
  signer_did text not null,                             -- the member that signed and sent it
  created_at timestamptz not null default now(),
  constraint group_infos_pkey primary key (convo_id),
  constraint group_infos_epoch_check check (epoch >= 0)
);

-- Encrypted keys do not compress.
alter table group_infos alter column group_info set storage external;

create table group_info_requests (
  convo_id     text not null,
  requested_at timestamptz not null,                    -- when its members were last asked for a GroupInfo, by an event
  constraint group_info_requests_pkey primary key (convo_id)
);

comment on table group_infos is
  'The newest GroupInfo of a conversation, which may be of an epoch that is over.';
comment on table group_info_requests is
  'When the members of a conversation were last asked for a GroupInfo.';

-- The members are asked by an event. Rows that are there satisfied the narrower list, so none is looked at.
alter table event_stream
  drop constraint event_stream_type_check,
  add constraint event_stream_type_check
    check (event_type in ('joined', 'left', 'removed', 'read', 'cursor', 'keyPackagesLow', 'mailbox', 'fork', 'wedged',
                          'groupInfoRequested')) not valid;

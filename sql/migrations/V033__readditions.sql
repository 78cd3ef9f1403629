-- Requests of members to be added to the MLS group again, which the other members are told of.

create table readdition_requests (
  convo_id     text        not null,
  identity     text        not null,                    -- DID of the member, or DID#device of one of its devices
  member_did   text        not null,
  request_id   text        not null,                    -- ULID, the same for repeated requests of one membership
  joined_seq   bigint      not null,                    -- of the membership that it is about
  requested_at timestamptz not null,                    -- when the other members were last told
  constraint readdition_requests_pkey primary key (convo_id, identity)
);

comment on table readdition_requests is
  'Requests of members to be added to the MLS group again.';

-- Rows that are there satisfied the narrower list, so none is read.
alter table event_stream
  drop constraint event_stream_type_check,
  add constraint event_stream_type_check
    check (event_type in ('joined', 'left', 'removed', 'read', 'cursor', 'keyPackagesLow', 'mailbox', 'fork', 'wedged', 'groupInfoRequested', 'newDevice', 'deviceDeleted', 'readditionRequested')) not valid;

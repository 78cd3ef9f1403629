-- External commits, which are limited for each device and for each conversation.

create table external_commits (
  convo_id    text        not null,
  identity    text        not null,                     -- of the leaf: the DID of a member, or DID#device
  accepted_at timestamptz not null,                     -- when the identity's last external commit was accepted
  constraint external_commits_pkey primary key (convo_id, identity)
);

comment on table external_commits is
  'When each device last joined the MLS group of a conversation by an external commit.';

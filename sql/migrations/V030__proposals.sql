-- MLS proposals as entries of the log, beside application messages and commits.

-- Every existing row satisfies the new checks, because it satisfies the old ones.
alter table messages drop constraint messages_type_check;
alter table messages add constraint messages_type_check check (message_type in ('app', 'commit', 'proposal')) not valid;
alter table messages drop constraint messages_body_hash_check;
alter table messages add constraint messages_body_hash_check check ((message_type = 'app') = (body_hash is null)) not valid;

comment on table messages is
  'The log of each conversation: application messages, commits and proposals, in one order without gaps.';
comment on column messages.message_type is 'app, commit or proposal';
comment on column messages.body_hash is 'SHA-256 of the bytes of a commit or proposal; null for an application message';

-- A proposal is recognised by its bytes, and the proposals of one member in one epoch are counted.
create unique index messages_proposal_bytes_key on messages (convo_id, epoch, sender_did, body_hash) where message_type = 'proposal';

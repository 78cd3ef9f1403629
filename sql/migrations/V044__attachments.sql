-- Attachments: encrypted blobs, whose bytes are in the blob store. A blob belongs to one conversation, and messages of that conversation
-- refer to it. The row is there before the first byte is, and the name of an object stays in the database until its bytes are deleted.

-- No build has written to this table.
alter table blobs
  alter column content_type set default 'application/octet-stream',
  add column convo_id text not null,
  add column owner_did text not null,
  add column sha256 bytea,
  add column stored_at timestamptz,
  add column part_bytes bigint,
  add column expires_at timestamptz not null,
  add constraint blobs_key_check check (key ~ '^[0-9a-f]{32}$'),
  add constraint blobs_part_bytes_check check (part_bytes > 0),
  add constraint blobs_stored_check check ((stored_at is null) = (sha256 is null)),
  add constraint blobs_sha256_check check (octet_length(sha256) = 32),
  add constraint blobs_referred_check check (ref_count = 0 or stored_at is not null),
  add constraint blobs_convo_key unique (key, convo_id);

create index blobs_convo_idx on blobs (convo_id);
create index blobs_owner_idx on blobs (owner_did);
-- What no message refers to.
create index blobs_unused_idx on blobs (expires_at) where ref_count = 0;

-- Parts of a blob that is uploaded in several requests. Each part is an object of its own until the blob is complete.
create table blob_parts (
  key       text    not null,
  part      integer not null,
  stored_at timestamptz,
  constraint blob_parts_pkey primary key (key, part),
  constraint blob_parts_part_check check (part >= 1),
  -- Without cascade: whoever deletes a blob moves the names of its parts to blob_deletions.
  constraint blob_parts_blob_fkey foreign key (key) references blobs (key)
);

create table blob_references (
  convo_id text   not null,
  seq      bigint not null,
  key      text   not null,
  constraint blob_references_pkey primary key (convo_id, seq, key),
  constraint blob_references_message_fkey foreign key (convo_id, seq) references messages (convo_id, seq) on delete cascade,
  constraint blob_references_blob_fkey foreign key (key, convo_id) references blobs (key, convo_id)
);

create index blob_references_key_idx on blob_references (key);

-- The blobs of a conversation, counted. Uploads of one conversation wait for each other here, for the time of one small transaction.
create table convo_blobs (
  convo_id text   not null,
  bytes    bigint not null,
  blobs    bigint not null,
  constraint convo_blobs_pkey primary key (convo_id),
  constraint convo_blobs_bytes_check check (bytes >= 0),
  constraint convo_blobs_blobs_check check (blobs >= 0)
);

-- Objects whose bytes are to be deleted. A row stays for an hour, because an upload that began before the row was written may still end.
create table blob_deletions (
  name  text        not null,
  since timestamptz not null default now(),
  constraint blob_deletions_pkey primary key (name)
);

create index blob_deletions_since_idx on blob_deletions (since);

-- The number of messages that refer to a blob follows from the references, whichever statement writes or deletes them. The update conflicts
-- with a deletion of the blob, which then sees the new number. For each row, because a trigger for each statement would also run for each
-- message that is deleted and refers to nothing.
create function count_blob_reference() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    update blobs set ref_count = ref_count + 1 where key = new.key;
  else
    update blobs set ref_count = ref_count - 1 where key = old.key;
  end if;
  return null;
end $$;

create trigger blob_references_counted after insert or delete on blob_references for each row execute function count_blob_reference();

-- The blobs of a conversation are counted in the same way.
create function count_convo_blob() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    insert into convo_blobs (convo_id, bytes, blobs) values (new.convo_id, new.size_bytes, 1)
    on conflict (convo_id) do update set bytes = convo_blobs.bytes + excluded.bytes, blobs = convo_blobs.blobs + 1;
  else
    update convo_blobs set bytes = bytes - old.size_bytes, blobs = blobs - 1 where convo_id = old.convo_id;
    delete from convo_blobs where convo_id = old.convo_id and blobs = 0;
  end if;
  return null;
end $$;

create trigger blobs_counted after insert or delete on blobs for each row execute function count_convo_blob();

comment on table blobs is
  'Encrypted attachments, whose bytes are in the blob store. The row is written before the bytes and deleted before them';
comment on column blobs.key is 'Id, 128 random bits in hexadecimal; the object is blobs/, its first two digits, / and this';
comment on column blobs.content_type is 'Media type with which it is served, the same for all';
comment on column blobs.size_bytes is 'Size in bytes, as announced when the upload began';
comment on column blobs.ref_count is 'Number of messages that refer to it, kept by triggers of blob_references';
comment on column blobs.created_at is 'Time at which the upload began';
comment on column blobs.convo_id is 'Conversation that it was uploaded for, the only one whose messages may refer to it';
comment on column blobs.owner_did is 'DID of the member that uploaded it; empty once it was erased';
comment on column blobs.sha256 is 'SHA-256 of its bytes; null while they arrive';
comment on column blobs.stored_at is 'Time at which all bytes were stored; null while they arrive';
comment on column blobs.part_bytes is 'Size of each part but the last; null if it is uploaded in one request';
comment on column blobs.expires_at is 'Time from which it may be deleted if no message refers to it';
comment on table blob_parts is 'Parts of blobs that are uploaded in several requests, until the blob is complete; the objects are parts/, key, / and part';
comment on column blob_parts.key is 'Blob';
comment on column blob_parts.part is 'Number of the part, from 1 on';
comment on column blob_parts.stored_at is 'Time at which its bytes were stored; null while they arrive';
comment on table blob_references is 'Messages and the blobs that they refer to; written in the transaction of the message, deleted with the message';
comment on column blob_references.convo_id is 'Conversation of the message and of the blob';
comment on column blob_references.seq is 'Place of the message in the log';
comment on column blob_references.key is 'Blob';
comment on table convo_blobs is 'Number and bytes of the blobs of each conversation that has any, uploads included; kept by triggers of blobs';
comment on column convo_blobs.convo_id is 'Conversation';
comment on column convo_blobs.bytes is 'Bytes of its blobs together';
comment on column convo_blobs.blobs is 'Number of its blobs';
comment on table blob_deletions is 'Objects whose bytes are to be deleted from the blob store. A row is deleted an hour after it was written and the object with it';
comment on column blob_deletions.name is 'Name of the object';
comment on column blob_deletions.since is 'Time at which the object was given up';

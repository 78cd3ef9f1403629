-- Bodies: in a conversation of the storage model `blob`, the ciphertexts of large messages are in the blob store. A body is a blob of its own,
-- to which its message refers, so it is counted, deleted and checked as every blob.

alter table conversations
  add column storage_model text,
  add constraint conversations_storage_model_check check (storage_model = 'blob') not valid;

-- No row violates it, so none is read.
alter table messages
  add column body_key text,
  add column body_bytes integer,
  add constraint messages_body_check
    check (body_key is null and body_bytes is null
           or body_key is not null and body_bytes > 0 and octet_length(ciphertext) = 0 and message_type = 'app') not valid;

alter table blobs add column is_body boolean not null default false;

comment on column conversations.storage_model is 'blob: ciphertexts of large messages are in the blob store; null: all are in this database';
comment on column messages.ciphertext is
  'MLS bytes, opaque to the server; empty if they are a body, and once an operator has deleted the conversation';
comment on column messages.body_key is 'Blob that is the ciphertext; null if the ciphertext is in this row';
comment on column messages.body_bytes is 'Size of the ciphertext that is a body';
comment on column blobs.is_body is 'True for a ciphertext of a message, which is read with the message and in no other way';

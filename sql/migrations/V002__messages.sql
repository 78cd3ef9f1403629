-- The log: application messages and commits of a conversation in one dense order.

create table messages (
  convo_id     text not null,
  seq          bigint not null,                         -- 1..n without gaps, in commit order
  id           text not null,                           -- ULID, or the sender's own msgId
  sender_did   text not null,
  message_type text not null,                           -- app or commit
  epoch        bigint not null,                         -- of an app message: encrypted in; of a commit: the one it creates
  ciphertext   bytea not null,                          -- MLS bytes, opaque
  body_hash    bytea,                                   -- SHA-256 of a commit's bytes, by which a repetition is known
  embed_type   text,
  embed_uri    text,
  tx           xid8 not null default pg_current_xact_id(), -- who wrote it, for the event tail's watermark
  created_at   timestamptz not null default now(),
  constraint messages_pkey primary key (convo_id, seq),
  constraint messages_id_key unique (convo_id, id),
  constraint messages_type_check check (message_type in ('app', 'commit')),
  constraint messages_seq_check check (seq >= 1),
  constraint messages_epoch_check check (epoch >= 0),
  constraint messages_body_hash_check check ((message_type = 'commit') = (body_hash is not null))
);

-- One winner per epoch, and no commit twice, even if every line of the server is wrong.
create unique index messages_commit_epoch_key on messages (convo_id, epoch) where message_type = 'commit';
create unique index messages_commit_bytes_key on messages (convo_id, body_hash) where message_type = 'commit';
create index messages_tx_idx on messages (tx, seq);

-- Ciphertext does not compress; trying costs time on every insert.
alter table messages alter column ciphertext set storage external;

-- Dense order: an entry follows its predecessor, and its seq and a commit's epoch are what the conversation stands at.
create function follow_predecessor() returns trigger language plpgsql as $$
begin
  -- One expression, because each one that reads a table costs an executor of its own in every insert.
  if not coalesce((select new.seq <= c.last_seq
                      and (new.message_type = 'app' or new.epoch = c.current_epoch)
                      and (new.seq = 1 or exists (select from messages m
                                                   where m.convo_id = new.convo_id and m.seq = new.seq - 1))
                     from conversations c where c.id = new.convo_id), false) then
    raise exception 'entry % of conversation % (epoch %) does not follow its predecessor, or is not where the conversation stands',
      new.seq, new.convo_id, new.epoch
      using errcode = 'check_violation', constraint = 'messages_position_check';
  end if;
  return null;
end $$;

create trigger messages_position_check after insert on messages for each row execute function follow_predecessor();

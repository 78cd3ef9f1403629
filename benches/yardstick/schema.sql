-- The yardstick: the cost of one sendMessage or one commit in PostgreSQL alone. It has the same lock, the
-- same compare-and-swap, the same check of the sender, the same row in the log; no token, no HTTP, no JSON.
-- 1,000 conversations of 10 members. It is created again for every scenario that is compared with it.
drop schema if exists yardstick cascade;
create schema yardstick;
set search_path = yardstick;

create table conversations (
  id            text primary key,
  current_epoch bigint not null default 0,
  last_seq      bigint not null default 0,
  updated_at    timestamptz not null default now()
) with (fillfactor = 70);

create table members (
  convo_id   text not null,
  member_did text not null,
  left_at    timestamptz,
  primary key (convo_id, member_did)
);

create table messages (
  convo_id     text not null,
  seq          bigint not null,
  id           uuid not null unique,
  sender_did   text not null,
  message_type text not null check (message_type in ('app', 'commit')),
  epoch        bigint not null,
  tx           xid8 not null default pg_current_xact_id(),
  ciphertext   bytea not null,
  created_at   timestamptz not null default now(),
  expires_at   timestamptz,
  primary key (convo_id, seq)
);
create unique index on messages (convo_id, epoch) where message_type = 'commit';
create index on messages (tx, seq);

insert into conversations (id) select 'c' || g from generate_series(1, 1000) g;
insert into members (convo_id, member_did)
select 'c' || g, 'didplcu' || m from generate_series(1, 1000) g, generate_series(0, 9) m;

-- Ids that begin with the time, as ULIDs do: the unique index grows at its right edge only.
create function next_id() returns uuid language sql volatile as $$
  select (lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0')
          || substr(md5(random()::text), 1, 20))::uuid
$$;

create function send(p_convo text, p_sender text, p_epoch bigint, p_body bytea) returns bigint
language plpgsql as $$
declare v_seq bigint;
begin
  perform pg_advisory_xact_lock(hashtextextended(p_convo, 0));
  update yardstick.conversations set last_seq = last_seq + 1, updated_at = now()
   where id = p_convo and current_epoch = p_epoch
     and exists (select 1 from yardstick.members
                  where convo_id = p_convo and member_did = p_sender and left_at is null)
  returning last_seq into v_seq;
  if not found then raise exception 'another epoch, or not a member'; end if;
  insert into yardstick.messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext)
  values (p_convo, v_seq, yardstick.next_id(), p_sender, 'app', p_epoch, p_body);
  return v_seq;
end $$;

create function commit_epoch(p_convo text, p_sender text, p_body bytea) returns bigint
language plpgsql as $$
declare v_seq bigint; v_epoch bigint;
begin
  perform pg_advisory_xact_lock(hashtextextended(p_convo, 0));
  select current_epoch into v_epoch from yardstick.conversations where id = p_convo;
  update yardstick.conversations
     set current_epoch = current_epoch + 1, last_seq = last_seq + 1, updated_at = now()
   where id = p_convo and current_epoch = v_epoch
  returning current_epoch, last_seq into v_epoch, v_seq;
  insert into yardstick.messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext)
  values (p_convo, v_seq, yardstick.next_id(), p_sender, 'commit', v_epoch, p_body);
  return v_epoch;
end $$;

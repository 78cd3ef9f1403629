-- Used tokens, in a ring of tables that are emptied whole.
--
-- A token goes into the slot of the ten minutes in which it dies, which is a property of the token, so that all who present it meet in
-- one unique index. Nothing is deleted by row: a slot is truncated when everything in it has long been dead.
--
-- With k for the present ten minutes by PostgreSQL's clock: a token is taken only if it died less than five minutes ago or dies within nine
-- (auth/spend_nonces), so it belongs to k - 1, k or k + 1. Slots of k - 5 to k - 2 are emptied (empty_used_tokens), which asks for
-- the time after it has got the lock: while it waited, the ring may have moved on, never back. Of eight slots, those are never the slots
-- of k - 1, k and k + 1, nor of k + 2, which is for a clock that is set back. So a token whose record is gone has been dead for ten minutes
-- at least, and nobody accepts it, whatever a replica's own clock says.
--
-- Development tokens live for up to a day and stay in auth_nonces, which is swept.

create table used_tokens (
  slot  smallint not null,                              -- token_slot of when it dies
  token bytea    not null                               -- half of the SHA-256 of '<issuer>|<jti>'
) partition by list (slot);

-- Each slot has a key of its own: one that it had from used_tokens could not be dropped, as a restore over these tables does (pg_restore
-- --clean). Unlogged as auth_nonces is, and for the same reason. Nothing in them dies but all at once, so there is nothing to vacuum.
create unlogged table used_tokens_0 partition of used_tokens (constraint used_tokens_0_pkey primary key (token))
  for values in (0) with (autovacuum_enabled = false);
create unlogged table used_tokens_1 partition of used_tokens (constraint used_tokens_1_pkey primary key (token))
  for values in (1) with (autovacuum_enabled = false);
create unlogged table used_tokens_2 partition of used_tokens (constraint used_tokens_2_pkey primary key (token))
  for values in (2) with (autovacuum_enabled = false);
create unlogged table used_tokens_3 partition of used_tokens (constraint used_tokens_3_pkey primary key (token))
  for values in (3) with (autovacuum_enabled = false);
create unlogged table used_tokens_4 partition of used_tokens (constraint used_tokens_4_pkey primary key (token))
  for values in (4) with (autovacuum_enabled = false);
create unlogged table used_tokens_5 partition of used_tokens (constraint used_tokens_5_pkey primary key (token))
  for values in (5) with (autovacuum_enabled = false);
create unlogged table used_tokens_6 partition of used_tokens (constraint used_tokens_6_pkey primary key (token))
  for values in (6) with (autovacuum_enabled = false);
create unlogged table used_tokens_7 partition of used_tokens (constraint used_tokens_7_pkey primary key (token))
  for values in (7) with (autovacuum_enabled = false);

-- The ten minutes that a time is in, counted from 1970 on.
create function ten_minutes(at timestamptz) returns bigint language sql immutable as
  $$ select floor(extract(epoch from at) / 600)::bigint $$;

create function token_slot(dies_at timestamptz) returns smallint language sql immutable as
  $$ select (ten_minutes(dies_at) % 8)::smallint $$;

-- Empties a slot if everything in it has long been dead. Whether it did.
create function empty_used_tokens(slot integer) returns boolean language plpgsql set lock_timeout = '1s' as $$
declare
  part text := format('used_tokens_%s', slot);
begin
  -- Before the lock as well: it would last until the transaction ends, and everybody who uses a token would wait for it.
  if (slot - ten_minutes(clock_timestamp()) % 8 + 8) % 8 not between 3 and 6 or pg_relation_size(part::regclass) = 0 then
    return false;
  end if;
  execute format('lock table %s in access exclusive mode', part);
  if (slot - ten_minutes(clock_timestamp()) % 8 + 8) % 8 not between 3 and 6 then
    return false;
  end if;
  execute format('truncate %s', part);
  return true;
end $$;

-- Replicas of an earlier build go on writing auth_nonces. What they accept goes into the ring too, before anything else, so that a token
-- is used once among replicas of both kinds: who comes second waits at the unique index for who came first. Such a row says until when it
-- is remembered, which is no earlier than the token dies, so it takes every slot that the token may belong to. What was accepted before
-- this migration stands in auth_nonces, where replicas of this build look too.
alter table auth_nonces
  add column lasting boolean not null default false;    -- of a development token, written by this build or a later one

create function use_in_ring() returns trigger language plpgsql as $$
declare
  digest bytea := substr(sha256(convert_to(new.issuer_did || '|' || new.jti, 'UTF8')), 1, 16);
  used   boolean := false;
begin
  for part in ten_minutes(clock_timestamp() - interval '2 minutes')
           .. ten_minutes(least(new.expires_at, clock_timestamp() + interval '9 minutes')) loop
    insert into used_tokens (slot, token) values ((part % 8)::smallint, digest) on conflict do nothing;
    used := used or not found;
  end loop;
  -- Without a row it was used before.
  return case when used then null else new end;
end $$;

create trigger auth_nonces_in_ring before insert on auth_nonces
  for each row when (not new.lasting) execute function use_in_ring();

-- Used tokens that live for an hour, which a PDS mints for one method and one use.
--
-- The ring of V022 with sixteen slots in place of eight. With k for the present ten minutes by PostgreSQL's clock: a token is taken only if
-- it died less than five minutes ago or dies within seventy (auth/spend_nonces), so it belongs to one of k - 1 to k + 7. Slots of k - 7 to
-- k - 2 are emptied. Of sixteen slots, those are never the slots of k - 1 to k + 7, nor of k + 8, which is for a clock that is set back.
--
-- Replicas of the build before call the same functions, take only tokens that die within minutes, and go on as they are.

-- Whoever uses a token waits, and makes its plan anew afterwards, since the functions that are part of it are other ones then.
lock table used_tokens in access exclusive mode;

create unlogged table used_tokens_8 partition of used_tokens (constraint used_tokens_8_pkey primary key (token))
  for values in (8) with (autovacuum_enabled = false);
create unlogged table used_tokens_9 partition of used_tokens (constraint used_tokens_9_pkey primary key (token))
  for values in (9) with (autovacuum_enabled = false);
create unlogged table used_tokens_10 partition of used_tokens (constraint used_tokens_10_pkey primary key (token))
  for values in (10) with (autovacuum_enabled = false);
create unlogged table used_tokens_11 partition of used_tokens (constraint used_tokens_11_pkey primary key (token))
  for values in (11) with (autovacuum_enabled = false);
create unlogged table used_tokens_12 partition of used_tokens (constraint used_tokens_12_pkey primary key (token))
  for values in (12) with (autovacuum_enabled = false);
create unlogged table used_tokens_13 partition of used_tokens (constraint used_tokens_13_pkey primary key (token))
  for values in (13) with (autovacuum_enabled = false);
create unlogged table used_tokens_14 partition of used_tokens (constraint used_tokens_14_pkey primary key (token))
  for values in (14) with (autovacuum_enabled = false);
create unlogged table used_tokens_15 partition of used_tokens (constraint used_tokens_15_pkey primary key (token))
  for values in (15) with (autovacuum_enabled = false);

-- What is in the ring goes where it is looked for from now on. Where it was it stays until that slot is emptied, and is in nobody's way.
do $$
declare
  present bigint := ten_minutes(clock_timestamp());
begin
  for part in present - 2 .. present + 2 loop
    if part % 16 >= 8 then
      execute format('insert into used_tokens (slot, token) select %s, token from used_tokens_%s', part % 16, part % 8);
    end if;
  end loop;
end $$;

create or replace function token_slot(dies_at timestamptz) returns smallint language sql immutable as
  $$ select (ten_minutes(dies_at) % 16)::smallint $$;

create or replace function empty_used_tokens(slot integer) returns boolean language plpgsql set lock_timeout = '1s' as $$
declare
  part text := format('used_tokens_%s', slot);
begin
  -- Before the lock as well: it would last until the transaction ends, and everybody who uses a token would wait for it.
  if (slot - ten_minutes(clock_timestamp()) % 16 + 16) % 16 not between 9 and 14 or pg_relation_size(part::regclass) = 0 then
    return false;
  end if;
  execute format('lock table %s in access exclusive mode', part);
  if (slot - ten_minutes(clock_timestamp()) % 16 + 16) % 16 not between 9 and 14 then
    return false;
  end if;
  execute format('truncate %s', part);
  return true;
end $$;

create or replace function use_in_ring() returns trigger language plpgsql as $$
declare
  digest bytea := substr(sha256(convert_to(new.issuer_did || '|' || new.jti, 'UTF8')), 1, 16);
  used   boolean := false;
begin
  for part in ten_minutes(clock_timestamp() - interval '2 minutes')
           .. ten_minutes(least(new.expires_at, clock_timestamp() + interval '9 minutes')) loop
    insert into used_tokens (slot, token) values ((part % 16)::smallint, digest) on conflict do nothing;
    used := used or not found;
  end loop;
  -- Without a row it was used before.
  return case when used then null else new end;
end $$;

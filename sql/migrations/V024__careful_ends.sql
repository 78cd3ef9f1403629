-- Who was ever in a conversation that it is a member of, so that this does not end as one that nobody comes back to: it opened its Welcome, or
-- it wrote something that is not kept any more. Who read is known by last_read_at. Whoever is a member already counts as having been there:
-- nobody has noted it.
alter table members add column was_there boolean not null default true;
alter table members alter column was_there set default false;

-- As in V022, but a slot whose tokens may live is not even locked: the lock would last until the transaction ends, and everybody who uses
-- a token would wait for it. It is asked again under the lock, for which it may have waited.
create or replace function empty_used_tokens(slot integer) returns boolean language plpgsql set lock_timeout = '1s' as $$
declare
  part text := format('used_tokens_%s', slot);
begin
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

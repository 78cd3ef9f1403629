-- Devices of a person. A device is known by its signature key, which is in each of its key packages. Key packages belong to a device, and
-- device_memberships records in which MLS groups a device is, as far as the server can see.

create table devices (
  owner_did     text not null,
  device_id     text not null,                          -- ULID made by the server; did#device_id names the device in credentials
  device_uuid   text,                                   -- name that the client gives it, the same after a reinstallation
  name          text not null,                          -- shown to its owner
  signature_key bytea not null,                         -- public key of its leaves
  registered_at timestamptz not null default now(),
  last_seen_at  timestamptz not null default now(),     -- when it last registered or published a key package
  announced_to  text default '',                        -- conversation whose members were last told of its registration or deletion; null: all were
  deleted_at    timestamptz,                            -- the row stays until all members have been told
  constraint devices_pkey primary key (owner_did, device_id),
  constraint devices_name_check check (name <> '' and octet_length(name) <= 100),
  constraint devices_uuid_check check (device_uuid <> '' and octet_length(device_uuid) <= 64),
  constraint devices_key_check check (octet_length(signature_key) between 32 and 133),
  constraint devices_deleted_check check (deleted_at is null or announced_to is not null)
);

create unique index devices_uuid_key on devices (owner_did, device_uuid) where deleted_at is null;
create unique index devices_signature_key_key on devices (owner_did, signature_key) where deleted_at is null;
-- Devices of which members are still to be told.
create index devices_to_announce_idx on devices (owner_did, device_id) where announced_to is not null;

alter table key_packages
  add column device_id text,                            -- null: of a client that has registered no device
  add column signature_key_hash bytea;                  -- SHA-256 of its leaf's signature key; null if it was published before this column

-- The device that a key package belongs to: a registered one, or the holder of a signature key, or one that is not known.
create function device_key(device_id text, signature_key_hash bytea) returns text language sql immutable parallel safe as
$$ select coalesce('d' || device_id, 'k' || encode(signature_key_hash, 'hex'), 'n') $$;

-- What may still be issued of each device, oldest first.
create index key_packages_devices_idx on key_packages (owner_did, cipher_suite, device_key(device_id, signature_key_hash), created_at)
  where claimed_by is null and consumed_at is null;
-- What a device has published and no Welcome has used.
create index key_packages_of_device_idx on key_packages (owner_did, device_id) where device_id is not null and consumed_at is null;

create table device_memberships (
  convo_id         text not null,
  owner_did        text not null,
  device_id        text not null,
  epoch            bigint,                              -- the epoch in which it entered the group; null while it is not in
  addition_id      text,                                -- ULID under which members may add it; null if no member was asked to
  claimed_by       text,                                -- the member that is adding it
  claim_expires_at timestamptz,                         -- until then no other member may
  created_at       timestamptz not null default now(),
  constraint device_memberships_pkey primary key (convo_id, owner_did, device_id),
  constraint device_memberships_addition_key unique (addition_id),
  constraint device_memberships_claim_check check ((claimed_by is null) = (claim_expires_at is null)
                                               and (claimed_by is null or addition_id is not null)),
  constraint device_memberships_entered_check check (epoch is not null or addition_id is not null)
);

create index device_memberships_device_idx on device_memberships (owner_did, device_id);
-- What members are asked to add.
create index device_memberships_pending_idx on device_memberships (convo_id, addition_id) where epoch is null;

-- A Welcome that was made for a device's key package brings the device in, whichever statement stores it. That completes the device's
-- addition, if members were asked for one.
create function note_welcomed_devices() returns trigger language plpgsql as $$
begin
  insert into device_memberships (convo_id, owner_did, device_id, epoch)
  select w.convo_id, w.recipient_did, k.device_id, max(w.epoch)
    -- With `offset 0` PostgreSQL can only look each package up.
    from addressed w cross join lateral (select device_id, owner_did from key_packages where hash = w.key_package_hash offset 0) k
   where k.device_id is not null and k.owner_did = w.recipient_did
   group by w.convo_id, w.recipient_did, k.device_id
   order by w.convo_id, w.recipient_did, k.device_id
  on conflict (convo_id, owner_did, device_id) do update set epoch = excluded.epoch;
  return null;
end $$;

create trigger welcome_messages_devices after insert on welcome_messages referencing new table as addressed
  for each statement execute function note_welcomed_devices();

-- Members are told of new and deleted devices. Rows that are there satisfied the narrower list, so none is looked at.
alter table event_stream
  drop constraint event_stream_type_check,
  add constraint event_stream_type_check
    check (event_type in ('joined', 'left', 'removed', 'read', 'cursor', 'keyPackagesLow', 'mailbox', 'fork', 'wedged',
                          'groupInfoRequested', 'newDevice', 'deviceDeleted')) not valid;

-- Upkeep of key packages and Welcomes by their owners: packages that are withdrawn or replaced, and Welcomes that cannot be opened.

alter table key_packages
  add column retired_at timestamptz,                    -- since then it is not issued: its owner withdrew it, or a newer last-resort package replaced it
  add column announced_at timestamptz,                  -- when its owner was last told that this last-resort package was issued
  add constraint key_packages_announced_check check (announced_at is null or last_resort) not valid;

-- What an owner's stock has lost, newest last. Retention sets the time of old ones to the epoch.
create index key_packages_taken_idx on key_packages (owner_did, coalesce(claimed_at, consumed_at), hash)
  where coalesce(claimed_at, consumed_at) > 'epoch';

alter table welcome_messages
  add column rejected_at timestamptz;                   -- when its recipient first said that it cannot open it

-- Rows that are there satisfied the narrower list, so none is read.
alter table event_stream
  drop constraint event_stream_type_check,
  add constraint event_stream_type_check
    check (event_type in ('joined', 'left', 'removed', 'read', 'cursor', 'keyPackagesLow', 'mailbox', 'fork', 'wedged',
                          'groupInfoRequested', 'newDevice', 'deviceDeleted', 'readditionRequested', 'lastResortUsed', 'welcomeRejected')) not valid;

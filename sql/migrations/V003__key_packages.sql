-- Key packages. The row outlives the package: an issued hash stays as its own tombstone, so that the same package is never
-- handed to anybody else, even if it is uploaded again. The same package has several spellings (bare, or as an MLSMessage);
-- its init key is what makes it one.

create table key_packages (
  hash             bytea not null,                      -- SHA-256 of the bytes as they were sent, the name it goes by
  init_key_hash    bytea not null,                      -- SHA-256 of the HPKE init key, in any spelling the same package
  owner_did        text not null,
  cipher_suite     text not null,
  key_package      bytea,                               -- null once nothing but the tombstone is left
  last_resort      boolean not null,                    -- MLS extension: may be handed out again and again
  created_at       timestamptz not null default now(),
  expires_at       timestamptz not null,
  claimed_by       text,                                -- the one caller that it was issued to
  claimed_at       timestamptz,
  claim_expires_at timestamptz,                         -- until then the same caller gets the same package again
  consumed_at      timestamptz,                         -- when a Welcome for it was accepted
  consumed_convo   text,
  constraint key_packages_pkey primary key (hash),
  constraint key_packages_init_key_key unique (init_key_hash),
  constraint key_packages_claim_check check ((claimed_by is null) = (claimed_at is null)
                                         and (claimed_by is null) = (claim_expires_at is null)),
  constraint key_packages_consumed_check check ((consumed_at is null) = (consumed_convo is null)),
  constraint key_packages_last_resort_check check (not last_resort or (claimed_by is null and consumed_at is null))
);

-- What may still be issued, oldest first.
create index key_packages_available_idx on key_packages (owner_did, cipher_suite, created_at)
  where claimed_by is null and consumed_at is null;
-- What a caller holds on lease.
create index key_packages_claims_idx on key_packages (claimed_by, owner_did) where claimed_by is not null and consumed_at is null;

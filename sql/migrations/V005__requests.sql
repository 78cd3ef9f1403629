-- What makes a request safe to repeat, and a token safe to see only once.

create table idempotency_records (
  caller_did  text not null,
  method      text not null,                            -- without the namespace, as sendMessage
  key         text not null,
  fingerprint bytea not null,                           -- SHA-256 of the request's fields
  reply       jsonb not null,                           -- what the first one answered; only successes are kept
  created_at  timestamptz not null default now(),
  constraint idempotency_records_pkey primary key (caller_did, method, key)
);

create index idempotency_records_age_idx on idempotency_records (created_at);

-- Tokens that were used. Losing it in a crash of PostgreSQL is bounded by the minutes that a token lives; writing it to the
-- log would cost a flush for every read request.
create unlogged table auth_nonces (
  issuer_did text not null,
  jti        text not null,
  expires_at timestamptz not null,
  constraint auth_nonces_pkey primary key (issuer_did, jti)
);

create index auth_nonces_age_idx on auth_nonces (expires_at);

-- Since when PostgreSQL has known all that it did. A crash and a failover forget which transaction ids were given out last and
-- give them out again; both also empty an unlogged table. So an id is only asked about while the row from before it is there.
create unlogged table crash_witness (
  only_row boolean not null default true,
  since    timestamptz not null default now(),
  constraint crash_witness_pkey primary key (only_row),
  constraint crash_witness_only_row_check check (only_row)
);

insert into crash_witness default values;

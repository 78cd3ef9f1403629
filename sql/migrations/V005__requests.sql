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

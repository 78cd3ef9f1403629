-- Mailboxes: where a member's entries are handed over, beside the log.

create table mailboxes (
  member_did text not null,
  convo_id   text not null,                             -- empty: for every conversation that has no row of its own
  provider   text not null,                             -- none or webhook
  zone       text,                                      -- a name of the member's own, handed over with every entry
  url        text,
  host       text,                                      -- of the URL, with its port if that is not the usual one
  secret     bytea,                                     -- key of the signature, chosen by the member
  tx         xid8 not null default pg_current_xact_id(), -- entries of later transactions are handed over
  updated_at timestamptz not null default now(),
  constraint mailboxes_pkey primary key (member_did, convo_id),
  constraint mailboxes_provider_check check (provider in ('none', 'webhook')),
  constraint mailboxes_webhook_check check ((provider = 'webhook') = (url is not null)
                                        and (provider = 'webhook') = (host is not null)
                                        and (provider = 'webhook') = (secret is not null))
);

create index mailboxes_webhook_idx on mailboxes (tx) where provider = 'webhook';

-- How far the log was expanded into envelopes: everything that transactions before this one wrote. One row, whose lock is the
-- right to go on.
create table fan_out (
  only_row boolean not null default true,
  below    xid8 not null default pg_current_xact_id(),
  constraint fan_out_pkey primary key (only_row),
  constraint fan_out_only_row_check check (only_row)
);

insert into fan_out default values;

alter table envelopes
  add column seq bigint not null,                       -- of the message
  add column host text not null,                        -- whom it goes to; only so that one host does not keep the others waiting
  add column state text not null default 'pending',
  add column attempts integer not null default 0,       -- begun, the one that runs included
  add column next_attempt_at timestamptz not null default now(), -- while an attempt runs: when it counts as failed
  add column last_error text,
  add constraint envelopes_state_check check (state in ('pending', 'delivered', 'dead')),
  add constraint envelopes_attempts_check check (attempts >= 0),
  add constraint envelopes_delivered_check check ((state = 'delivered') = (delivered_at is not null)),
  add constraint envelopes_dead_check check (state <> 'dead' or last_error is not null);

create index envelopes_due_idx on envelopes (next_attempt_at) where state = 'pending';
create index envelopes_dead_idx on envelopes (created_at) where state = 'dead';

-- A mailbox proves that whoever answers there wants it, before anything is handed over, and is given up when it fails for long.

alter table mailboxes
  add column state         text not null default 'unverified',
  add column reason        text,                        -- why it is refused or suspended
  add column begun_at      timestamptz not null default now(), -- since when it has to prove itself
  add column challenges    integer not null default 0,  -- begun since then
  add column challenge_at  timestamptz not null default now(), -- while it is unverified: when the next one is due
  add column failing_since timestamptz,                 -- first failed attempt since the last one that succeeded
  add column failed        integer not null default 0,  -- envelopes that were given up since then
  add constraint mailboxes_state_check check (state in ('unverified', 'verified', 'refused', 'suspended')),
  add constraint mailboxes_reason_check check ((state in ('refused', 'suspended')) = (reason is not null)),
  add constraint mailboxes_challenges_check check (challenges >= 0),
  add constraint mailboxes_failed_check check (failed >= 0);

-- Whoever has taken an envelope wants them.
update mailboxes b set state = 'verified'
 where b.provider = 'webhook'
   and exists (select from envelopes e
                where e.recipient_did = b.member_did and e.host = b.host and e.state = 'delivered'
                  and (b.convo_id = '' or e.convo_id = b.convo_id));

create index mailboxes_challenge_idx on mailboxes (challenge_at) where provider = 'webhook' and state = 'unverified';

-- Another place has proved nothing, whoever writes it: a replica of an earlier build does not know of proofs.
create function mailbox_begins_anew() returns trigger language plpgsql as $$
begin
  if new.provider <> old.provider or new.url is distinct from old.url or new.secret is distinct from old.secret
     or old.state in ('refused', 'suspended') then
    new.state := 'unverified';
    new.reason := null;
    new.begun_at := now();
    new.challenges := 0;
    new.challenge_at := now();
    new.failing_since := null;
    new.failed := 0;
  end if;
  return new;
end $$;

create trigger mailbox_begins_anew before update of provider, url, secret on mailboxes
  for each row execute function mailbox_begins_anew();

-- How often somebody who has not asked for it was challenged: by URL, whoever named it, and by member, whatever it named.
create table mailbox_challenges (
  whom      text not null,                              -- 'url ' and the SHA-256 of it, or 'member ' and a DID
  sent      integer not null default 1,
  proved    boolean not null default false,             -- a URL that has answered as it should is no stranger's
  forget_at timestamptz not null default now() + interval '1 day', -- the count begins anew then
  constraint mailbox_challenges_pkey primary key (whom)
);

create index mailbox_challenges_forget_idx on mailbox_challenges (forget_at);

-- Owners are told by an event. Rows that are there satisfied the narrower list, so none is looked at.
alter table event_stream
  drop constraint event_stream_type_check,
  add constraint event_stream_type_check
    check (event_type in ('joined', 'left', 'removed', 'read', 'cursor', 'keyPackagesLow', 'mailbox')) not valid;

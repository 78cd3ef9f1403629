-- Where the expansion of the log is within a range of transactions, so that a range of many envelopes is made in portions. The place
-- holds as long as the range begins where it did (place_below): replicas of an earlier build move that alone.

alter table fan_out
  add column place_below  xid8,                         -- below, as it was when the range was begun; null: none is under way
  add column place_high   xid8,                         -- the range goes to before this transaction
  add column place_era    integer,                      -- where fan_out stands after it
  add column place_next   xid8,
  add column place_convo  text,                         -- the members of conversations up to these two have their envelopes
  add column place_member text,
  add constraint fan_out_place_check check (num_nulls(place_below, place_high, place_era, place_next, place_convo, place_member) in (0, 6));

-- Who has a webhook at all, and since when the first one of an era.
create index mailboxes_owner_idx on mailboxes (member_did) where provider = 'webhook';
create index mailboxes_since_idx on mailboxes (era, tx) where provider = 'webhook';
drop index mailboxes_webhook_idx;

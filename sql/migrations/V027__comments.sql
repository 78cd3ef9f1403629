-- What each table holds, for whoever looks at it with psql (\dt+). The migrations that make them say more.

comment on table conversations is
  'A conversation: its group, its present epoch and its newest seq. The hot row that each accepted entry updates.';
comment on table conversation_metadata is
  'What the creator calls a conversation.';
comment on table members is
  'Who is or was in a conversation, from which entry to which, and up to where it has read.';
comment on table messages is
  'The log of each conversation: application messages and commits, in one order without gaps.';
comment on table key_packages is
  'Key packages. The row of one that was issued stays as its tombstone, so that it is never issued again.';
comment on table welcomes is
  'The bytes of Welcomes, once for all whom one adds.';
comment on table welcome_messages is
  'For whom each Welcome is, and whether it was opened.';
comment on table idempotency_records is
  'First replies by caller, method and key, for requests that come again.';
comment on table auth_nonces is
  'Used development tokens, and what replicas of an earlier build have accepted. Unlogged.';
comment on table used_tokens is
  'Used tokens, in slots of ten minutes that are emptied whole. Unlogged.';
comment on table crash_witness is
  'Empty after a crash or a failover, for replicas of an earlier build. Unlogged.';
comment on table cursors is
  'Up to which entry somebody says that it has seen a conversation.';
comment on table event_stream is
  'Events that are no entries of a log: who joins, leaves and reads, and what concerns one person.';
comment on table event_horizon is
  'How far back a cursor of the stream of events may lie.';
comment on table envelopes is
  'Entries on their way to mailboxes: one row for each recipient and entry.';
comment on table blobs is
  'Kept for queries of the earlier server; this one stores none.';
comment on table log_starts is
  'Where a log begins whose older messages were deleted.';
comment on table retired_commits is
  'Commits whose bytes were deleted, by their hash.';
comment on table sweeps is
  'When each kind of old row was last deleted, and up to which age.';
comment on table mailboxes is
  'Where the entries of a member are handed over, beside the log.';
comment on table mailbox_challenges is
  'How often mailboxes were asked to prove themselves, by URL and by member.';
comment on table fan_out is
  'Up to where the log was expanded into envelopes. One row.';
comment on table set_aside is
  'What is left out of work in the background for a while because it fails by itself.';
comment on table suspensions is
  'Whom operators have shut out.';
comment on table suspensions_version is
  'Another value after each change of suspensions. One row.';
comment on table did_documents is
  'The keys of those who have called, for when their DID documents cannot be fetched.';
comment on table incarnations is
  'Times in which PostgreSQL gave no transaction id out twice.';
comment on table incarnation_witness is
  'That the newest incarnation is the present one. Unlogged.';
comment on table allowances is
  'What was used of quotas in the present windows. Unlogged.';
comment on table ended_groups is
  'Group ids of conversations that have ended, which stay taken.';
comment on table caller_names is
  'The key of the names by which the log speaks of callers. One row.';

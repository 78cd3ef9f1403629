-- Comments of all columns, and of tables that had none, for people who read the database with psql (\d+). Migrations from here on comment
-- what they add; a test compares. Comments keep no reader or writer waiting.

comment on table devices is
  'Devices of each person, each known by its signature key.';
comment on table device_memberships is
  'Devices in the MLS group of each conversation, as far as the server can see, and devices that members are asked to add.';
comment on table refinery_schema_history is
  'Applied migrations.';
comment on view present_incarnation is
  'The present incarnation; no row until it has begun.';

comment on column conversations.id is 'ULID made by the server';
comment on column conversations.group_id is 'MLS group id of the present group, in lower-case hexadecimal';
comment on column conversations.creator_did is 'DID of the member that created the conversation';
comment on column conversations.cipher_suite is 'MLS name of the present group''s cipher suite (RFC 9420, section 17.1)';
comment on column conversations.initial_epoch is 'Epoch in which the present group began; a commit exists for each later one';
comment on column conversations.current_epoch is 'Epoch of the present group; each commit advances it by one, by compare-and-swap';
comment on column conversations.last_seq is 'seq of the newest entry; 0 in an empty log';
comment on column conversations.created_at is 'Time of creation';
comment on column conversations.updated_at is 'Time of the last change of the log or the roster';
comment on column conversations.member_count is 'Number of active members';
comment on column conversations.roster_version is 'Advances whenever a member joins or leaves';
comment on column conversations.ended_at is 'Time at which the last members were removed by retention; the rows are deleted later. Null while the conversation exists';
comment on column conversations.generation is 'Number of the present MLS group, from 1 on';
comment on column conversations.group_seq is 'seq of the entry that began the present group; 0 for the first group';

comment on column conversation_metadata.convo_id is 'Conversation';
comment on column conversation_metadata.name is 'Name, shown to members';
comment on column conversation_metadata.description is 'Description, shown to members';

comment on column members.convo_id is 'Conversation';
comment on column members.member_did is 'DID of the member';
comment on column members.joined_at is 'Time at which the present membership began';
comment on column members.joined_seq is 'seq at which the membership began; the member sees later entries only';
comment on column members.joined_epoch is 'Epoch at which the membership began';
comment on column members.left_at is 'Time at which the membership ended; null while it lasts';
comment on column members.left_by is 'DID that ended the membership: the member itself, or the one that removed it';
comment on column members.left_epoch is 'Epoch at which the membership ended';
comment on column members.left_seq is 'seq at which the membership ended; the member sees no later entry';
comment on column members.last_read_seq is 'Read position; it moves forward only';
comment on column members.last_read_at is 'Time at which the read position last moved';
comment on column members.was_there is 'True if it opened its Welcome or wrote; retention keeps conversations in which two members were present';
comment on column members.in_group is 'False: named on the roster, and no commit has brought it into the MLS group yet';

comment on column messages.convo_id is 'Conversation';
comment on column messages.seq is 'Position in the log: 1..n without gap, in commit order';
comment on column messages.id is 'ULID made by the server, or the msgId of the sender';
comment on column messages.sender_did is 'DID of the sender';
comment on column messages.message_type is 'app, commit, proposal or reset';
comment on column messages.epoch is 'Epoch in which it was encrypted or proposed; of a commit, the epoch that it creates; of a reset, the first epoch of the new group';
comment on column messages.ciphertext is 'MLS bytes, opaque to the server';
comment on column messages.body_hash is 'SHA-256 of the bytes of a commit, proposal or reset; null for an application message';
comment on column messages.embed_type is 'Kind of what the message embeds, as its sender says';
comment on column messages.embed_uri is 'URI of what the message embeds, as its sender says';
comment on column messages.tx is 'Transaction that wrote the entry, by which the event tail finds it';
comment on column messages.created_at is 'Time at which the entry was accepted';
comment on column messages.era is 'Numbering of transactions that tx belongs to (incarnations.era)';
comment on column messages.generation is 'Generation of the MLS group in which it was made; a reset begins its own';

comment on column key_packages.hash is 'SHA-256 of the bytes as they were published';
comment on column key_packages.init_key_hash is 'SHA-256 of the HPKE init key, which is the same in every encoding of the package';
comment on column key_packages.owner_did is 'DID of the owner';
comment on column key_packages.cipher_suite is 'MLS name of the cipher suite';
comment on column key_packages.key_package is 'MLS bytes; null once only the tombstone is left';
comment on column key_packages.last_resort is 'True if it may be issued repeatedly (last-resort extension)';
comment on column key_packages.created_at is 'Time of publication';
comment on column key_packages.expires_at is 'End of its lifetime';
comment on column key_packages.claimed_by is 'DID of the caller that it was issued to';
comment on column key_packages.claimed_at is 'Time at which it was issued';
comment on column key_packages.claim_expires_at is 'Time until which the same caller gets it again';
comment on column key_packages.consumed_at is 'Time at which a commit or Welcome used it';
comment on column key_packages.consumed_convo is 'Conversation in which it was used';
comment on column key_packages.reference is 'KeyPackageRef (RFC 9420, section 5.2); null if it was published before this column existed';
comment on column key_packages.device_id is 'Device that it belongs to; null if its client has registered no device';
comment on column key_packages.signature_key_hash is 'SHA-256 of its leaf''s signature key; null if it was published before this column existed';
comment on column key_packages.retired_at is 'Time since which it is not issued: its owner withdrew it, or a newer last-resort package replaced it';
comment on column key_packages.announced_at is 'Time at which its owner was last told that this last-resort package was issued';

comment on column welcomes.id is 'ULID made by the server';
comment on column welcomes.welcome is 'MLS bytes';
comment on column welcomes.created_at is 'Time at which it was stored';

comment on column welcome_messages.id is 'ULID made by the server';
comment on column welcome_messages.convo_id is 'Conversation that it leads into';
comment on column welcome_messages.recipient_did is 'DID of the recipient';
comment on column welcome_messages.key_package_hash is 'Hash of the key package that opens it; null if the inviter did not name one';
comment on column welcome_messages.welcome_id is 'Bytes of the Welcome (welcomes.id); null once it is confirmed';
comment on column welcome_messages.epoch is 'Epoch in which the recipient enters the group';
comment on column welcome_messages.state is 'available, or consumed once the recipient has confirmed it';
comment on column welcome_messages.created_at is 'Time at which it was stored';
comment on column welcome_messages.confirmed_at is 'Time at which the recipient confirmed it';
comment on column welcome_messages.error_details is 'Reason that the recipient gave when it could not join';
comment on column welcome_messages.rejected_at is 'Time at which the recipient first reported that it cannot open it';
comment on column welcome_messages.generation is 'Generation of the MLS group that it leads into';

comment on column idempotency_records.caller_did is 'DID of the caller';
comment on column idempotency_records.method is 'Method without its namespace, such as sendMessage';
comment on column idempotency_records.key is 'Idempotency key of the request';
comment on column idempotency_records.fingerprint is 'SHA-256 of the fields of the request';
comment on column idempotency_records.reply is 'Reply to the first request; only successes are recorded';
comment on column idempotency_records.created_at is 'Time of the first request';

comment on column auth_nonces.issuer_did is 'DID that issued the token';
comment on column auth_nonces.jti is 'Token id';
comment on column auth_nonces.expires_at is 'Time until which the id is remembered';
comment on column auth_nonces.lasting is 'True if the id must be remembered after a crash too';

comment on column crash_witness.only_row is 'Always true, so that there is one row at most';
comment on column crash_witness.since is 'Time since which PostgreSQL has not crashed';

comment on column used_tokens.slot is 'Slot of ten minutes in which the token expires (token_slot)';
comment on column used_tokens.token is 'First half of the SHA-256 of issuer and token id';

comment on column cursors.user_did is 'DID of the member';
comment on column cursors.convo_id is 'Conversation';
comment on column cursors.last_seen_cursor is 'Cursor of the newest entry that the member has seen; it moves forward only';
comment on column cursors.updated_at is 'Time at which it last moved';

comment on column event_stream.id is 'Number of the event, in commit order within a conversation';
comment on column event_stream.convo_id is 'Conversation; null if the event is about none';
comment on column event_stream.recipient_did is 'DID that gets the event; null for all members of the conversation';
comment on column event_stream.event_type is 'Kind of the event';
comment on column event_stream.payload is 'Fields of the event';
comment on column event_stream.tx is 'Transaction that wrote the event, by which the event tail finds it';
comment on column event_stream.emitted_at is 'Time of the event';
comment on column event_stream.era is 'Numbering of transactions that tx belongs to (incarnations.era)';

comment on column event_horizon.only_row is 'Always true, so that there is one row at most';
comment on column event_horizon.tx is 'Events of earlier transactions may be deleted';
comment on column event_horizon.era is 'Numbering of transactions that tx belongs to (incarnations.era)';

comment on column envelopes.id is 'ULID made by the server, the same at each attempt';
comment on column envelopes.convo_id is 'Conversation';
comment on column envelopes.recipient_did is 'DID of the member whose mailbox gets it';
comment on column envelopes.message_id is 'Entry that it carries (messages.id)';
comment on column envelopes.created_at is 'Time at which the entry was expanded into envelopes';
comment on column envelopes.delivered_at is 'Time at which the mailbox accepted it';
comment on column envelopes.seq is 'seq of the entry';
comment on column envelopes.host is 'Host of the mailbox; it limits how many envelopes go there at once';
comment on column envelopes.state is 'pending, delivered or dead';
comment on column envelopes.attempts is 'Attempts that have begun';
comment on column envelopes.next_attempt_at is 'Time of the next attempt; while one runs, time at which it counts as failed';
comment on column envelopes.last_error is 'Reason for which the last attempt failed';

comment on column blobs.key is 'Key of the object';
comment on column blobs.content_type is 'Media type';
comment on column blobs.size_bytes is 'Size in bytes';
comment on column blobs.ref_count is 'Number of messages that refer to it';
comment on column blobs.created_at is 'Time at which it was stored';

comment on column log_starts.convo_id is 'Conversation';
comment on column log_starts.seq is 'First seq whose application messages are all kept';

comment on column retired_commits.convo_id is 'Conversation';
comment on column retired_commits.epoch is 'Epoch that the commit created';
comment on column retired_commits.seq is 'seq of the commit';
comment on column retired_commits.sender_did is 'DID of the sender';
comment on column retired_commits.body_hash is 'SHA-256 of the bytes of the commit';
comment on column retired_commits.unread is 'True if it was deleted for its age although a member had not read it';

comment on column sweeps.job is 'Kind of row that is deleted';
comment on column sweeps.cutoff is 'Rows older than this may be deleted; recorded before the first deletion, and never moved back';
comment on column sweeps.started_at is 'Time at which the last pass began';
comment on column sweeps.finished_at is 'Time at which it ended; null while it runs, or if its replica died';
comment on column sweeps.deleted is 'Rows that the last pass has deleted so far';
comment on column sweeps.place is 'Place at which the running pass continues: a page, or a conversation''s id';
comment on column sweeps.moved_at is 'Time at which the place was last recorded; if that is long ago, the replica has died and another continues';
comment on column sweeps.last_finished_at is 'Time at which a pass last ended; finished_at is null while the next one runs';
comment on column sweeps.since is 'Time from which on the first pass is expected';

comment on column mailboxes.member_did is 'DID of the member';
comment on column mailboxes.convo_id is 'Conversation; empty for every conversation without a row of its own';
comment on column mailboxes.provider is 'none or webhook';
comment on column mailboxes.zone is 'Name that the member has chosen, delivered with every entry';
comment on column mailboxes.url is 'URL to which entries are delivered';
comment on column mailboxes.host is 'Host of the URL, with its port unless that is the usual one';
comment on column mailboxes.secret is 'Key of the signature, chosen by the member';
comment on column mailboxes.tx is 'Entries of later transactions are delivered';
comment on column mailboxes.updated_at is 'Time at which the member last set it';
comment on column mailboxes.era is 'Numbering of transactions that tx belongs to (incarnations.era)';
comment on column mailboxes.state is 'unverified, verified, refused or suspended';
comment on column mailboxes.reason is 'Reason for which it is refused or suspended';
comment on column mailboxes.begun_at is 'Time since which it has to answer a challenge';
comment on column mailboxes.challenges is 'Challenges that have begun since then';
comment on column mailboxes.challenge_at is 'Time of the next challenge while it is unverified';
comment on column mailboxes.failing_since is 'Time of the first failed attempt since the last successful one';
comment on column mailboxes.failed is 'Envelopes that were given up since then';

comment on column mailbox_challenges.whom is 'url and the SHA-256 of the URL, or member and a DID';
comment on column mailbox_challenges.sent is 'Challenges that were sent in this window';
comment on column mailbox_challenges.proved is 'True if the URL has answered a challenge';
comment on column mailbox_challenges.forget_at is 'Time at which the count begins anew';

comment on column fan_out.only_row is 'Always true, so that there is one row at most';
comment on column fan_out.below is 'Entries of earlier transactions are expanded into envelopes';
comment on column fan_out.era is 'Numbering of transactions that below belongs to (incarnations.era)';
comment on column fan_out.place_below is 'Value of below at the beginning of the running range; null if none is running';
comment on column fan_out.place_high is 'End of the running range, exclusive';
comment on column fan_out.place_era is 'Era of fan_out after the running range';
comment on column fan_out.place_next is 'Transaction at which the running range continues';
comment on column fan_out.place_convo is 'Conversation up to which the envelopes of place_next exist';
comment on column fan_out.place_member is 'Member of place_convo up to which the envelopes of place_next exist';

comment on column set_aside.work is 'Job that skips the item';
comment on column set_aside.item is 'Page of the job''s table, or a conversation''s id';
comment on column set_aside.failures is 'Number of failures';
comment on column set_aside.last_error is 'Reason of the last failure';
comment on column set_aside.since is 'Time of the first failure';
comment on column set_aside.retry_at is 'Time of the next attempt';

comment on column suspensions.did is 'DID of the suspended caller';
comment on column suspensions.reason is 'Reason, for operators only';
comment on column suspensions.suspended_at is 'Time of the suspension';

comment on column suspensions_version.only_row is 'Always true, so that there is one row at most';
comment on column suspensions_version.version is 'Changes with each change of suspensions';

comment on column did_documents.did is 'DID';
comment on column did_documents.account_key is 'Key that signs for the account, as publicKeyMultibase';
comment on column did_documents.fetched_at is 'Time at which the document was fetched, by the clock of the replica';

comment on column incarnations.id is 'Number of the incarnation, from 1 on';
comment on column incarnations.era is 'First incarnation with this numbering of transactions: the numbering continues after a crash, and not in another database';
comment on column incarnations.floor is 'No earlier transaction wrote anything in it';
comment on column incarnations.cursor_key is 'Key that seals the cursors of this incarnation';
comment on column incarnations.system_identifier is 'Cluster, as initdb numbered it';
comment on column incarnations.timeline is 'Timeline of the cluster; a promotion and a recovery to a point in time begin another one';
comment on column incarnations.database_oid is 'OID of the database; a copy of the database has another one';
comment on column incarnations.table_oid is 'OID of incarnation_witness; a restored dump has another one';
comment on column incarnations.since is 'Time at which the incarnation began';

comment on column incarnation_witness.only_row is 'Always true, so that there is one row at most';
comment on column incarnation_witness.incarnation is 'Present incarnation (incarnations.id)';
comment on column incarnation_witness.started is 'Start of PostgreSQL under which the row was written';
comment on column incarnation_witness.file is 'File of the table under which the row was written';

comment on column allowances.quota is 'Quota that is counted';
comment on column allowances.key is 'Hash of the one or two DIDs that it is counted for';
comment on column allowances.used is 'Amount that all replicas have used in this window';
comment on column allowances.ends_at is 'End of the window';

comment on column ended_groups.group_id_hash is 'SHA-256 of the group id, as conversations have it';
comment on column ended_groups.ended_at is 'Time at which the group ended';

comment on column caller_names.only_row is 'Always true, so that there is one row at most';
comment on column caller_names.key is 'Key of the hash by which the log names callers';

comment on column commit_reports.convo_id is 'Conversation';
comment on column commit_reports.generation is 'Generation of the group that the commit belongs to';
comment on column commit_reports.epoch is 'Epoch that the commit creates';
comment on column commit_reports.member_did is 'DID of the member that reports';
comment on column commit_reports.commit_hash is 'SHA-256 of the commit that the member has';
comment on column commit_reports.epoch_authenticator is 'Authenticator of the epoch that the commit led the member to (RFC 9420, section 8.7)';
comment on column commit_reports.applied is 'True if the member could apply the commit';
comment on column commit_reports.is_newest is 'True for the member''s report of its latest epoch';
comment on column commit_reports.fork_told is 'True if members were told of a fork of the epoch when the report arrived';
comment on column commit_reports.reported_at is 'Time of the report';

comment on column wedged_convos.convo_id is 'Conversation';
comment on column wedged_convos.generation is 'Generation of the group that members cannot follow';
comment on column wedged_convos.epoch is 'Epoch of the conversation when a quorum had reported so';
comment on column wedged_convos.since is 'Time at which the quorum was reached';

comment on column group_infos.convo_id is 'Conversation';
comment on column group_infos.epoch is 'Epoch of the GroupInfo; it is served only while the conversation is in that epoch';
comment on column group_infos.group_info is 'MLS bytes as the signer sent them';
comment on column group_infos.signer_did is 'DID of the member that signed and sent it';
comment on column group_infos.created_at is 'Time at which it was stored';

comment on column group_info_requests.convo_id is 'Conversation';
comment on column group_info_requests.requested_at is 'Time at which its members were last asked for a GroupInfo';

comment on column devices.owner_did is 'DID of the owner';
comment on column devices.device_id is 'ULID made by the server; did#device_id names the device in credentials';
comment on column devices.device_uuid is 'Name that the client gives it, the same after a reinstallation';
comment on column devices.name is 'Name, shown to its owner';
comment on column devices.signature_key is 'Public key of the device''s leaves';
comment on column devices.registered_at is 'Time of the first registration';
comment on column devices.last_seen_at is 'Time at which it last registered or published a key package';
comment on column devices.announced_to is 'Conversation whose members were last told of its registration or deletion; null once all were told';
comment on column devices.deleted_at is 'Time of its deletion; the row stays until all members were told';

comment on column device_memberships.convo_id is 'Conversation';
comment on column device_memberships.owner_did is 'DID of the owner';
comment on column device_memberships.device_id is 'Device (devices.device_id)';
comment on column device_memberships.epoch is 'Epoch in which it entered the group; null while it is not in it';
comment on column device_memberships.addition_id is 'ULID under which members may add it; null if no member was asked to';
comment on column device_memberships.claimed_by is 'DID of the member that is adding it';
comment on column device_memberships.claim_expires_at is 'Time until which no other member may add it';
comment on column device_memberships.created_at is 'Time at which the row was made';

comment on column readdition_requests.convo_id is 'Conversation';
comment on column readdition_requests.identity is 'DID of the member, or DID#device of one of its devices';
comment on column readdition_requests.member_did is 'DID of the member';
comment on column readdition_requests.request_id is 'ULID of the request, the same for repeated requests of one membership';
comment on column readdition_requests.joined_seq is 'Membership that the request belongs to (members.joined_seq)';
comment on column readdition_requests.requested_at is 'Time at which the other members were last told';

comment on column external_commits.convo_id is 'Conversation';
comment on column external_commits.identity is 'Identity of the leaf: DID of the member, or DID#device';
comment on column external_commits.accepted_at is 'Time at which its last external commit was accepted';

comment on column past_groups.convo_id is 'Conversation';
comment on column past_groups.generation is 'Number of the group';
comment on column past_groups.group_id is 'MLS group id in lower-case hexadecimal';
comment on column past_groups.cipher_suite is 'MLS name of the cipher suite';
comment on column past_groups.initial_epoch is 'Epoch in which the group began';
comment on column past_groups.final_epoch is 'Epoch in which the group ended';
comment on column past_groups.first_seq is 'seq of the entry that began it; 0 for the first group';
comment on column past_groups.last_seq is 'seq of its last entry';
comment on column past_groups.ended_at is 'Time of the reset that ended it';

comment on column refinery_schema_history.version is 'Number of the migration';
comment on column refinery_schema_history.name is 'Name of the migration';
comment on column refinery_schema_history.applied_on is 'Time at which it was applied, as text';
comment on column refinery_schema_history.checksum is 'Checksum of its text';

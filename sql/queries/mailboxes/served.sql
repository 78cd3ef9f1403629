-- mailboxes/served: clears the failures of a mailbox that has accepted an envelope.
-- $1 member   $2 convo_id, or empty   $3 time at which it was set
update mailboxes set failing_since = null, failed = 0
 where member_did = $1 and convo_id = $2 and updated_at = $3 and failing_since is not null

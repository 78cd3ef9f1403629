-- mailboxes/get: returns the mailbox of a member in a conversation, or the one for conversations without their own.
-- $1 did   $2 convo_id, or empty
select convo_id, provider, zone, url, state, reason, updated_at from mailboxes
 where member_did = $1 and convo_id in ('', $2) order by convo_id desc limit 1

-- erasure/find_mailboxes: returns whether a person has mailboxes.
-- $1 did
select 1 as found from mailboxes where member_did = $1 limit 1

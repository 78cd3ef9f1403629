-- erasure/mailboxes: deletes the mailboxes of a person.
-- $1 did
with gone as (delete from mailboxes where member_did = $1 returning 1)
select jsonb_build_object('mailboxes', count(*))::text as counts from gone

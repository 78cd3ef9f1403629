-- mailboxes/refuse: refuses a mailbox that has not answered its challenges, until it is set again, and tells its owner.
-- $1 member   $2 convo_id, or empty   $3 time at which it was set   $4 reason
with refused as (
  update mailboxes set state = 'refused', reason = $4
   where member_did = $1 and convo_id = $2 and updated_at = $3 and state = 'unverified'
  returning member_did, convo_id, state, reason
)
insert into event_stream (convo_id, recipient_did, event_type, payload)
select nullif(convo_id, ''), member_did, 'mailbox', jsonb_build_object('state', state, 'reason', reason) from refused

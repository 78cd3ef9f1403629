-- mailboxes/blame: records a failed attempt against its mailbox. The mailbox is suspended, and its owner told, after
-- too many envelopes were given up, or after a second one was given up and none was accepted for too long. Row: it was
-- suspended.
-- $1 member   $2 convo_id, or empty   $3 time at which it was set   $4 envelopes given up: 0 or 1   $5 most of them
-- $6 longest, in seconds   $7 reason
with blamed as (
  select b.*, b.failed + $4 >= $5
              or $4 = 1 and b.failed > 0
                 and coalesce(b.failing_since < statement_timestamp() - make_interval(secs => $6), false) as is_enough
    from mailboxes b
   where b.member_did = $1 and b.convo_id = $2 and b.updated_at = $3 and b.state = 'verified'
     for update
), noted as (
  update mailboxes b
     set failed = b.failed + $4, failing_since = coalesce(b.failing_since, statement_timestamp()),
         state = case when o.is_enough then 'suspended' else b.state end, reason = case when o.is_enough then $7 end
    from blamed o
   where b.member_did = o.member_did and b.convo_id = o.convo_id and ($4 > 0 or o.is_enough or o.failing_since is null)
  returning b.member_did, b.convo_id, b.state, b.reason
)
insert into event_stream (convo_id, recipient_did, event_type, payload)
select nullif(convo_id, ''), member_did, 'mailbox', jsonb_build_object('state', state, 'reason', reason)
  from noted where state = 'suspended'
returning 1

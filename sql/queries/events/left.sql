-- events/left: writes the event rows of a membership that ended: one for the remaining members, and one for the former
-- member.
-- needs: the conversation, exclusively.
-- $1 convo_id   $2 did   $3 DID that ended it   $4 epoch   $5 last seq it may have seen
insert into event_stream (convo_id, recipient_did, event_type, payload)
select $1, told.recipient_did, told.event_type,
       jsonb_build_object('did', $2::text, 'actor', $3::text, 'generation', c.generation, 'epoch', $4::bigint, 'seq', $5::bigint)
  from conversations c cross join (values (null, 'left'), ($2::text, 'removed')) told (recipient_did, event_type)
 where c.id = $1

-- events/parting: after which entry somebody who was removed goes on, when it comes from a cursor: after the last that was written by a
-- transaction below it, but not before the membership that ended began.   $1 convo_id   $2 did   $3 cursor   $4 id of the removal's row
select greatest(
         coalesce((select (j.payload->>'seq')::bigint from event_stream j
                    where j.convo_id = $1 and j.recipient_did is null and j.event_type = 'joined' and j.payload->'dids' ? $2
                      and j.id < $4 order by j.id desc limit 1), 0),
         coalesce((select e.seq from messages e
                    where e.convo_id = $1 and e.tx < $3::bigint::text::xid8 order by e.seq desc limit 1), 0)) as position

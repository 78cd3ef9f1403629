-- events/removal_position: returns the entry after which a removed member continues from a cursor: the last one that
-- its snapshot saw, but not before the membership began. The rows of the conversation are gathered first, because the
-- primary key would search the rows of all conversations.
-- $1 convo_id   $2 did   $3 the end of the cursor's snapshot   $4 its running transactions   $5 era
-- $6 id of the removal's row
with joined as materialized (
  select id, payload from event_stream
   where convo_id = $1 and recipient_did is null and event_type = 'joined' and id < $6 and payload->'dids' ? $2
)
select greatest(
         coalesce((select (payload->>'seq')::bigint from joined order by id desc limit 1), 0),
         coalesce((select e.seq from messages e
                    where e.convo_id = $1
                      and (e.era < $5 or e.tx < $3::bigint::text::xid8 and e.tx <> all($4::text::xid8[]))
                    order by e.seq desc limit 1), 0)) as position

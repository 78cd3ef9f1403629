-- events/replay: the event rows for a member since a cursor, oldest first: its own, those of the conversations that it is in, and, of
-- those that it was removed from since, how it came to be in them. A removal is over if the joining that follows it was told before the
-- cursor; transactions may have begun in another order than they were committed in.
-- $1 did   $2 one conversation, or null for all   $3 cursor   $4 most rows
select id, convo_id, recipient_did, event_type, payload::text as payload, tx::text::bigint as tx, emitted_at
  from (
  select * from event_stream e
   where e.recipient_did = $1 and e.tx >= $3::bigint::text::xid8 and ($2::text is null or e.convo_id = $2)
     and not (e.event_type = 'removed'
              and exists (select from event_stream j
                           where j.convo_id = e.convo_id and j.recipient_did is null and j.event_type = 'joined'
                             and j.payload->'dids' ? $1 and j.id > e.id and j.tx < $3::bigint::text::xid8))
  union all
  select e.* from members m
    join event_stream e on e.convo_id = m.convo_id and e.recipient_did is null and e.tx >= $3::bigint::text::xid8
   where m.member_did = $1 and m.left_at is null and ($2::text is null or m.convo_id = $2)
  union all
  select e.* from members m
    join event_stream e on e.convo_id = m.convo_id and e.recipient_did is null and e.tx >= $3::bigint::text::xid8
   where m.member_did = $1 and m.left_at is not null and ($2::text is null or m.convo_id = $2)
     and e.event_type = 'joined' and e.payload->'dids' ? $1
     and exists (select from event_stream r
                  where r.recipient_did = $1 and r.convo_id = m.convo_id and r.event_type = 'removed'
                    and r.tx >= $3::bigint::text::xid8)
) told
 order by id limit $4

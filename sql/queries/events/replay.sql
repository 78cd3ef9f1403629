-- events/replay: returns the event rows for a member that a cursor's snapshot did not see, oldest first: its own; those
-- of its conversations; and, for conversations that it was removed from since, how it joined. A removal is obsolete if
-- the later join was told before the cursor; transactions may begin in another order than they commit. One row more
-- than the limits means that there are more. Unseen rows are found in two index ranges, because one condition with "or"
-- would read all rows of each conversation.
-- $1 did   $2 one conversation, or null for all   $3 the end of the cursor's snapshot   $4 its running transactions
-- $5 era   $6 maximum number of rows   $7 maximum number of bytes
with own as materialized (
  select * from event_stream e
   where e.recipient_did = $1 and e.era = $5 and e.tx >= $3::bigint::text::xid8 and ($2::text is null or e.convo_id = $2)
  union all
  select * from event_stream e
   where e.recipient_did = $1 and e.era = $5 and e.tx = any($4::text::xid8[]) and ($2::text is null or e.convo_id = $2)
), told as (
  select * from own e
   where not (e.event_type = 'removed'
              and exists (select from event_stream j
                           where j.convo_id = e.convo_id and j.recipient_did is null and j.event_type = 'joined'
                             and j.payload->'dids' ? $1 and j.id > e.id
                             and (j.era < $5 or j.tx < $3::bigint::text::xid8 and j.tx <> all($4::text::xid8[]))))
  union all
  select e.* from members m
   cross join lateral (select * from event_stream s
                        where s.convo_id = m.convo_id and s.recipient_did is null and s.era = $5 and s.tx >= $3::bigint::text::xid8
                        union all
                       select * from event_stream s
                        where s.convo_id = m.convo_id and s.recipient_did is null and s.era = $5 and s.tx = any($4::text::xid8[])) e
   where m.member_did = $1 and m.left_at is null and ($2::text is null or m.convo_id = $2)
  union all
  select e.* from (select distinct convo_id from own where event_type = 'removed') gone
    join members m on m.convo_id = gone.convo_id and m.member_did = $1 and m.left_at is not null
   cross join lateral (select * from event_stream s
                        where s.convo_id = m.convo_id and s.recipient_did is null and s.era = $5 and s.tx >= $3::bigint::text::xid8
                        union all
                       select * from event_stream s
                        where s.convo_id = m.convo_id and s.recipient_did is null and s.era = $5 and s.tx = any($4::text::xid8[])) e
   where e.event_type = 'joined' and e.payload->'dids' ? $1
), page as (
  select id, convo_id, recipient_did, event_type, payload::text as payload, tx, emitted_at from told order by id limit $6 + 1
), sized as (
  select *, sum(octet_length(payload)) over (order by id) as total from page
)
select id, convo_id, recipient_did, event_type, payload, tx::text::bigint as tx, emitted_at, total
  from sized where total - octet_length(payload) <= $7
 order by id

-- events/news: what became visible since a snapshot: conversations with new entries, and event rows, oldest first. The first row is
-- the new snapshot, of this very statement.
--
-- A row that the old snapshot did not see was written by a transaction that was still running then, or began later: it is in the
-- snapshot's list, or not below its end. Both are looked up by tx, so that a transaction that runs for hours costs one probe.
-- Nothing at or above the end of the new snapshot is visible; the bound keeps rows of another cluster's numbering, brought in by
-- a dump, out of every pass.
-- $1 the old snapshot   $2 most event rows
with fresh as (
  select convo_id from messages
   where tx >= pg_snapshot_xmax($1::text::pg_snapshot) and tx < pg_snapshot_xmax(pg_current_snapshot())
  union
  select convo_id from messages where tx = any(array(select pg_snapshot_xip($1::text::pg_snapshot)))
), told as (
  select * from event_stream
   where tx >= pg_snapshot_xmax($1::text::pg_snapshot) and tx < pg_snapshot_xmax(pg_current_snapshot())
  union all
  select * from event_stream where tx = any(array(select pg_snapshot_xip($1::text::pg_snapshot)))
  order by id limit $2
)
select 0 as part, pg_current_snapshot()::text as snapshot, pg_snapshot_xmin(pg_current_snapshot())::text::bigint as watermark,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint as ahead, clock_timestamp() as now,
       null::bigint as id, null::text as convo_id, null::text as recipient_did, null::text as event_type, null::text as payload,
       null::bigint as tx, null::timestamptz as emitted_at
union all
select 1, null, null, null, null, null, convo_id, null, null, null, null, null from fresh
union all
select 2, null, null, null, null, id, convo_id, recipient_did, event_type, payload::text, tx::text::bigint, emitted_at
  from told
order by part, id

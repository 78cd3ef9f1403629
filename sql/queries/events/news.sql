-- events/news: returns what became visible since a snapshot: conversations with new entries, and event rows, oldest
-- first, within a number of rows and of bytes (at least one row). The first row is the snapshot of this statement, its
-- incarnation, and whether there were too many entries. No row at all: the present incarnation has not begun.
--
-- A row that the old snapshot did not see was written by a transaction that was running then or began later: it is in
-- the snapshot's list, or not below its end. Both are found by tx, so that a transaction that runs for hours costs one
-- probe. Members of the list are ranges of one transaction each. If few transactions have written the whole table, as
-- an import does, PostgreSQL would otherwise expect a large part of the table for each, and read all of it in each
-- pass.
-- $1 the old snapshot   $2 maximum number of entries   $3 maximum number of event rows   $4 maximum number of bytes of them
with present as materialized (
  select id, era, cursor_key, pg_current_snapshot() as snapshot from present_incarnation
), entries as materialized (
  select m.convo_id from messages m
   where m.tx >= pg_snapshot_xmax($1::text::pg_snapshot) and m.tx < pg_snapshot_xmax(pg_current_snapshot())
     and m.era = (select era from present)
   limit $2
), fresh as (
  select convo_id from entries
  union
  select m.convo_id
    from pg_snapshot_xip($1::text::pg_snapshot) running (tx)
   cross join lateral (select convo_id, era from messages where tx between running.tx and running.tx offset 0) m
   where m.era = (select era from present)
), told as (
  select id, convo_id, recipient_did, event_type, payload::text as payload, tx, emitted_at from event_stream
   where tx >= pg_snapshot_xmax($1::text::pg_snapshot) and tx < pg_snapshot_xmax(pg_current_snapshot())
     and era = (select era from present)
  union all
  select e.id, e.convo_id, e.recipient_did, e.event_type, e.payload::text, e.tx, e.emitted_at
    from pg_snapshot_xip($1::text::pg_snapshot) running (tx)
   cross join lateral (select * from event_stream where tx between running.tx and running.tx offset 0) e
   where e.era = (select era from present)
  order by id limit $3
), sized as (
  select *, sum(octet_length(payload)) over (order by id) as total from told
)
select 0 as part, snapshot::text as snapshot, id as incarnation, era, cursor_key, clock_timestamp() as now,
       (select count(*) from entries) >= $2 as too_many,
       null::bigint as id, null::text as convo_id, null::text as recipient_did, null::text as event_type, null::text as payload,
       null::bigint as tx, null::timestamptz as emitted_at
  from present
union all
select 1, null, null, null, null, null, null, null, convo_id, null, null, null, null, null from fresh
union all
select 2, null, null, null, null, null, null, id, convo_id, recipient_did, event_type, payload, tx::text::bigint, emitted_at
  from sized where total <= $4 or total = octet_length(payload)
order by part, id

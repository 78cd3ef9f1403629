-- events/more_news: returns the next event rows that became visible between two snapshots, oldest first, within a
-- number of rows and of bytes (at least one row). Rows that were committed after the later snapshot are left to the
-- next pass.
-- $1 the earlier snapshot   $2 the later one   $3 after this id   $4 maximum number of rows   $5 maximum number of bytes   $6 era
with told as (
  select id, convo_id, recipient_did, event_type, payload::text as payload, tx, emitted_at from event_stream
   where tx >= pg_snapshot_xmax($1::text::pg_snapshot) and tx < pg_snapshot_xmax($2::text::pg_snapshot)
     and pg_visible_in_snapshot(tx, $2::text::pg_snapshot) and era = $6 and id > $3
  union all
  select e.id, e.convo_id, e.recipient_did, e.event_type, e.payload::text, e.tx, e.emitted_at
    from pg_snapshot_xip($1::text::pg_snapshot) running (tx)
   cross join lateral (select * from event_stream where tx between running.tx and running.tx offset 0) e
   where pg_visible_in_snapshot(e.tx, $2::text::pg_snapshot) and e.era = $6 and e.id > $3
  order by id limit $4
), sized as (
  select *, sum(octet_length(payload)) over (order by id) as total from told
)
select id, convo_id, recipient_did, event_type, payload, tx::text::bigint as tx, emitted_at
  from sized where total <= $5 or total = octet_length(payload)
 order by id

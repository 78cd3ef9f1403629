-- events/position: the present, as a snapshot, and how far back a cursor may lie.
select pg_current_snapshot()::text as snapshot, pg_snapshot_xmin(pg_current_snapshot())::text::bigint as watermark,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint as ahead, tx::text::bigint as horizon, clock_timestamp() as now
  from event_horizon

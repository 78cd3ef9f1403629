-- events/position: returns the present snapshot with its incarnation, the newest transaction whose entries it sees, and
-- the horizon for cursors; and, for a cursor, the key and era of its incarnation, and the floor of the incarnations
-- after it. No row: the present incarnation has not begun. Entries of older eras may have any number, so the newest of
-- this era is searched among a hundred.
-- $1 the cursor's incarnation, or null
select pg_current_snapshot()::text as snapshot, p.id as incarnation, p.era, p.cursor_key, clock_timestamp() as now,
       (select m.tx::text::bigint
          from (select tx, era from messages
                 where tx < pg_snapshot_xmax(pg_current_snapshot())
                 order by tx desc limit 100) m
         where m.era = p.era order by m.tx desc limit 1) as newest,
       h.tx::text::bigint as horizon, c.cursor_key as key_then, c.era as era_then,
       (select i.floor::text::bigint from incarnations i where i.id > c.id order by i.floor limit 1) as floor
  from present_incarnation p cross join event_horizon h left join incarnations c on c.id = $1

-- mailboxes/take_fan_out: the right to expand the log, and where to go on: from $below on, and not beyond what surely has ended.
-- Nothing that was written before the first mailbox was set is of interest. No row: another replica is at it.
-- $1 most entries beside those of the first transaction
with fan_out as materialized (
  select below from fan_out for update skip locked
), range as (
  select greatest(f.below, least((select b.tx from mailboxes b where b.provider = 'webhook' order by b.tx limit 1), h.high)) as low,
         h.high
    from fan_out f, pg_snapshot_xmin(pg_current_snapshot()) h (high)
)
select low::text as low,
       greatest(low, coalesce((select m.tx from messages m where m.tx > low and m.tx < high order by m.tx, m.seq offset $1 limit 1),
                              high))::text as high
  from range

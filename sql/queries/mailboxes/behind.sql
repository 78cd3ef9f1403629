-- mailboxes/behind: whether anybody has a mailbox, whether there are entries that were not expanded yet, and whether there are ids that
-- this cluster has not given out, so that a dump has brought them. The order by sends it through the index, where the next entry
-- is the first that it meets.
select exists (select from mailboxes where provider = 'webhook') as used,
       coalesce((select tx from messages where tx >= (select below from fan_out) order by tx limit 1)
                < pg_snapshot_xmin(pg_current_snapshot()), false) as behind,
       exists (select from fan_out where below > pg_snapshot_xmax(pg_current_snapshot()))
       or exists (select from messages where tx >= pg_snapshot_xmax(pg_current_snapshot()))
       or exists (select from mailboxes where tx >= pg_snapshot_xmax(pg_current_snapshot())) as restored

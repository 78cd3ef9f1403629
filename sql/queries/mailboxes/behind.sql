-- mailboxes/behind: whether anybody has a mailbox, and whether there are entries that were not expanded yet. The order by sends
-- it through the index, where the next entry is the first that it meets.
select exists (select from mailboxes where provider = 'webhook') as used,
       coalesce((select tx from messages where tx >= (select below from fan_out) order by tx limit 1)
                < pg_snapshot_xmin(pg_current_snapshot()), false) as behind

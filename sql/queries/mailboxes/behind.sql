-- mailboxes/behind: returns whether any mailbox exists, and whether entries wait to be expanded: entries of an older
-- era, or of ended transactions of this one.
select exists (select from mailboxes where provider = 'webhook') as used,
       exists (select from fan_out f, present_incarnation p
                where f.era < p.era
                   or exists (select from messages m
                               where m.tx >= f.below and m.tx < pg_snapshot_xmin(pg_current_snapshot()) and m.era = f.era)) as behind

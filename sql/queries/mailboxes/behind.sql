-- mailboxes/behind: whether anybody has a mailbox, and whether there are entries that were not expanded yet: of an older era, or of this
-- one, by transactions that surely have ended.
select exists (select from mailboxes where provider = 'webhook') as used,
       exists (select from fan_out f, present_incarnation p
                where f.era < p.era
                   or exists (select from messages m
                               where m.tx >= f.below and m.tx < pg_snapshot_xmin(pg_current_snapshot()) and m.era = f.era)) as behind

-- doctor/mailboxes: returns for how many seconds the most overdue envelope has been due, and the oldest entry has waited to be
-- expanded into envelopes; and the number of dead envelopes, up to a limit.
-- $1 limit
select extract(epoch from clock_timestamp() - (select min(next_attempt_at) from envelopes where state = 'pending'))::float8 as overdue,
       extract(epoch from clock_timestamp() - (
         select m.created_at from fan_out f
           join lateral (select m.created_at from messages m
                          where m.tx >= f.below and m.tx < pg_snapshot_xmin(pg_current_snapshot()) and m.era = f.era
                          order by m.tx limit 1) m on true
          where exists (select from mailboxes where provider = 'webhook')))::float8 as unexpanded,
       (select count(*) from (select from envelopes where state = 'dead' limit $1) d) as dead

-- mailboxes/take_restored: the right to bring ids of another cluster, which a dump brought along, into this one, and the range of the ids
-- of entries there that were not expanded. No row: there are none any more, or another replica is at it.
with fan_out as materialized (
  select below from fan_out for update skip locked
)
select greatest(f.below, s.ahead)::text as low, '9223372036854775807' as high
  from fan_out f, pg_snapshot_xmax(pg_current_snapshot()) s (ahead)
 where f.below > s.ahead or exists (select from messages m where m.tx >= s.ahead)
    or exists (select from mailboxes b where b.tx >= s.ahead)

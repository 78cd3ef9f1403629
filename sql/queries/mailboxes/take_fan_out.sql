-- mailboxes/take_fan_out: locks the expansion and returns the range to expand: from the place in this era to the end of
-- ended transactions; and the place after it. A started range comes first, from the member after the last one that was
-- expanded. An older era has ended; its last transaction is followed by the first of the next era. Entries from before
-- the first mailbox are skipped. No row: another replica has the lock.
-- $1 maximum number of entries beside those of the first transaction
with fan_out as materialized (
  select * from fan_out for update skip locked
), place as materialized (
  select f.era, f.below, n.era as next_era, n.floor as next_below,
         case when n.era is null then pg_snapshot_xmin(pg_current_snapshot()) else '9223372036854775807'::xid8 end as high
    from fan_out f
    left join lateral (select i.era, i.floor from incarnations i where i.id = i.era and i.era > f.era order by i.era limit 1) n on true
), range as materialized (
  select p.*,
         case when exists (select from mailboxes b where b.provider = 'webhook' and b.era < p.era) then p.below
              else greatest(p.below, least((select b.tx from mailboxes b where b.provider = 'webhook' and b.era = p.era
                                             order by b.tx limit 1), p.high)) end as low
    from place p
), portion as materialized (
  select r.*, (select m.tx from messages m where m.tx > r.low and m.tx < r.high and m.era = r.era
                order by m.tx, m.seq offset $1 limit 1) as cut
    from range r
)
select p.era, p.low::text as low, greatest(p.low, coalesce(p.cut, p.high))::text as high,
       case when p.cut is null then coalesce(p.next_era, p.era) else p.era end as next_era,
       case when p.cut is null then coalesce(p.next_below, greatest(p.low, p.high)) else greatest(p.low, p.cut) end::text as next_below,
       '' as convo, '' as member
  from portion p join fan_out f on f.place_below is distinct from f.below
union all
select f.era, f.below::text, f.place_high::text, f.place_era, f.place_next::text, f.place_convo, f.place_member
  from fan_out f where f.place_below = f.below

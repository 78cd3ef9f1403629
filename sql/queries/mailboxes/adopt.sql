-- mailboxes/adopt: gives up to $1 entries of another cluster an id from before everything here, and, when those were all, mailboxes and the
-- place in the log too. They have been expanded.
--
-- Ids of this cluster go on from the transaction that brought the rows in, which is what the place in the log was written by. An
-- entry not below it is one of this cluster exactly if it was written by the transaction that it names.
-- needs: the right from mailboxes/take_restored.   $1 most entries
with now as materialized (
  select s.ahead, s.ahead::text::bigint as number from pg_snapshot_xmax(pg_current_snapshot()) s (ahead)
), brought as materialized (
  select f.below > n.ahead as far, f.below, n.ahead,
         n.number - ((n.number - f.xmin::text::bigint) & 4294967295) as by_tx
    from fan_out f, now n
), place as materialized (
  select ahead, far, case when far then by_tx::text::xid8 else below end as below from brought
), foreign_entries as materialized (
  select m.ctid from messages m, place p
   where m.tx >= least(p.below, p.ahead)
     and (m.tx >= p.ahead or p.far and m.tx::text::bigint & 4294967295 <> m.xmin::text::bigint)
   limit $1
), adopted as (
  update messages m set tx = '1' from foreign_entries e where m.ctid = e.ctid returning 1
), rest as materialized (
  select count(*) < $1 as done from adopted
), owners as (
  update mailboxes b set tx = '1' from place p, rest r
   where r.done and (b.tx >= p.ahead or p.far and b.tx >= p.below and b.tx::text::bigint & 4294967295 <> b.xmin::text::bigint)
), moved as (
  update fan_out f set below = p.below from place p, rest r where r.done and p.far
)
select done from rest

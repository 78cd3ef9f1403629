-- sweeps/log: moves a log's beginning past old entries, never past the newest one, which the next has to follow, and deletes the
-- application messages among them. It ends at the first entry that is young enough, so nothing is missing after it.
-- $1 convo_id   $2 cutoff   $3 entries
with start as (
  select c.last_seq, coalesce((select s.seq from log_starts s where s.convo_id = $1), 1) as seq
    from conversations c where c.id = $1
), entries as materialized (
  select m.seq, m.message_type, m.created_at from messages m
   where m.convo_id = $1 and m.seq >= (select seq from start) and m.seq < (select last_seq from start)
   order by m.seq limit $3
), bound as (
  select coalesce(min(seq) filter (where created_at >= $2), max(seq) + 1) as seq from entries having count(*) > 0
), moved as (
  insert into log_starts (convo_id, seq)
  select $1, bound.seq from bound, start where bound.seq > start.seq
  on conflict (convo_id) do update set seq = excluded.seq where log_starts.seq < excluded.seq
  returning seq
), gone as (
  delete from messages m using entries e, moved
   where m.convo_id = $1 and m.seq = e.seq and e.message_type = 'app' and e.seq < moved.seq
  returning 1
)
select (select count(*) from gone) as deleted, exists (select from moved) as moved

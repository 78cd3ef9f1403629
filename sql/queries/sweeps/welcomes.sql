-- sweeps/welcomes: deletes records of opened Welcomes. Waiting Welcomes stay.
-- $1 first tid   $2 tid after the last   $3 opened before this
with gone as (
  delete from welcome_messages
   where ctid >= $1::text::tid and ctid < $2::text::tid and state = 'consumed' and confirmed_at < $3
  returning 1
)
select count(*) as deleted from gone

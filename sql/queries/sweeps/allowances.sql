-- sweeps/allowances: forgets accounts whose window is over.   $1 first tid   $2 tid after the last   $3 over before this
with gone as (
  delete from allowances where ctid >= $1::text::tid and ctid < $2::text::tid and ends_at < $3 returning 1
)
select count(*) as deleted from gone

-- sweeps/envelopes: deletes old envelopes that were delivered or are dead.
-- $1 first tid   $2 tid after the last   $3 delivered, or made and dead, before this
with gone as (
  delete from envelopes
   where ctid >= $1::text::tid and ctid < $2::text::tid
     and (delivered_at < $3 or (state = 'dead' and created_at < $3))
  returning 1
)
select count(*) as deleted from gone

-- sweeps/nonces: deletes tokens that expired long ago.
-- $1 first tid   $2 tid after the last   $3 remembered until before this
with gone as (
  delete from auth_nonces where ctid >= $1::text::tid and ctid < $2::text::tid and expires_at < $3 returning 1
)
select count(*) as deleted from gone

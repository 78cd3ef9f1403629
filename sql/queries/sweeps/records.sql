-- sweeps/records: deletes the stored replies of old requests.
-- $1 first tid   $2 tid after the last   $3 made before this
with gone as (
  delete from idempotency_records where ctid >= $1::text::tid and ctid < $2::text::tid and created_at < $3 returning 1
)
select count(*) as deleted from gone

-- sweeps/did_documents: deletes documents of DIDs that have not called for a long time.
-- $1 first tid   $2 tid after the last   $3 fetched before this
with gone as (
  delete from did_documents where ctid >= $1::text::tid and ctid < $2::text::tid and fetched_at < $3 returning 1
)
select count(*) as deleted from gone

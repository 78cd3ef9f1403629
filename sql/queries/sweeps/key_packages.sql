-- sweeps/key_packages: forgets packages that expired and were never issued, and the bytes of those that were issued and are of no
-- more use: expired, used, or lost by whom they were issued to. Their hashes stay, so that they are never issued again.
-- $1 first tid   $2 tid after the last   $3 expired, used or lost before this
with gone as (
  delete from key_packages
   where ctid >= $1::text::tid and ctid < $2::text::tid and expires_at < $3 and claimed_by is null and consumed_at is null
  returning 1
), emptied as (
  update key_packages set key_package = null
   where ctid >= $1::text::tid and ctid < $2::text::tid and key_package is not null
     and (claimed_by is not null or consumed_at is not null)
     and (expires_at < $3 or consumed_at < $3 or claim_expires_at < $3)
  returning 1
)
select (select count(*) from gone) + (select count(*) from emptied) as deleted

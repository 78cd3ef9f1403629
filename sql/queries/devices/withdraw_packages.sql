-- devices/withdraw_packages: ends the use of a deleted device's key packages, and returns the number of those that could still be used. It
-- waits for commits that use one. Packages that may have been issued stay as tombstones; their time does not count in statistics.
-- $1 owner   $2 device_id
with usable as materialized (
  select hash, claimed_by is not null or last_resort as was_issued from key_packages
   where owner_did = $1 and device_id = $2 and consumed_at is null
   order by hash for update
), deleted as (
  delete from key_packages k using usable u where k.hash = u.hash and not u.was_issued
), ended as (
  update key_packages k
     set consumed_at = 'epoch', consumed_convo = '', key_package = null, retired_at = coalesce(k.retired_at, now())
    from usable u
   where k.hash = u.hash and u.was_issued
)
select count(*) as key_packages from usable

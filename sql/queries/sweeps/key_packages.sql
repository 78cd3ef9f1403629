-- sweeps/key_packages: deletes packages that expired and were never issued, and the bytes of issued packages that are
-- expired, used or lost. Hashes stay, so that no package is issued again. The caller and the conversation of a package
-- are erased once it cannot be used (an empty name), and the times a week later (a constant time), which getKeyPackageStats
-- counts until then.
-- $1 first tid   $2 tid after the last   $3 expired, used or lost before this
with gone as (
  delete from key_packages
   where ctid >= $1::text::tid and ctid < $2::text::tid and expires_at < $3 and claimed_by is null and consumed_at is null
  returning 1
), spent as (
  select hash, useless, useless and coalesce(claimed_at, consumed_at) < $3 - interval '7 days' as past from (
    select *, expires_at < $3 or coalesce(consumed_at < $3, false) as useless from key_packages
   where ctid >= $1::text::tid and ctid < $2::text::tid and (claimed_by is not null or consumed_at is not null)
     and (expires_at < $3 or consumed_at < $3 or claim_expires_at < $3)
  ) k
), emptied as (
  update key_packages k
     set key_package = null,
         claimed_by = case when useless and claimed_by is not null then '' else claimed_by end,
         claimed_at = case when past and claimed_by is not null then 'epoch' else claimed_at end,
         claim_expires_at = case when useless and claimed_by is not null then 'epoch' else claim_expires_at end,
         consumed_at = case when past and consumed_at is not null then 'epoch' else consumed_at end,
         consumed_convo = case when useless and consumed_at is not null then '' else consumed_convo end
    from spent
   where k.hash = spent.hash
     and (key_package is not null or (useless and (claimed_by <> '' or consumed_convo <> ''))
          or (past and (claimed_at > 'epoch' or consumed_at > 'epoch')))
  returning 1
)
select (select count(*) from gone) + (select count(*) from emptied) as deleted

-- erasure/key_packages_of_others: removes the name of a person from key packages that were issued to it, as retention does with used ones
-- (sweeps/key_packages). They stay used up.
-- needs: the key packages of the person (key_packages/lock_owner).
-- $1 did   $2 maximum number of rows
with named as materialized (
  select hash from key_packages
   where hash in ((select hash from key_packages where claimed_by = $1 and claimed_by is not null and consumed_at is null limit $2)
                  union all
                  (select hash from key_packages where claimed_by = $1 and claimed_by <> '' and consumed_at is not null limit $2))
   order by hash for update
), changed as (
  update key_packages k set claimed_by = '', claim_expires_at = 'epoch' from named n where k.hash = n.hash returning 1
)
select jsonb_build_object('keyPackagesOfOthers', count(*))::text as counts, count(*) >= $2 as more from changed

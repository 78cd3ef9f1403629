-- erasure/key_packages: deletes the key packages of a person that were never issued. Of those that may have been issued the hashes stay, without an
-- owner, so that none of them is issued again. It waits for commits that use one.
-- needs: the key packages of the person (key_packages/lock_owner).
-- $1 did   $2 maximum number of rows of each kind
with owned as materialized (
  select hash, claimed_by is null and consumed_at is null and not last_resort as is_free from key_packages
   where hash in ((select hash from key_packages where owner_did = $1 and claimed_by is null and consumed_at is null limit $2)
                  union all
                  (select hash from key_packages where owner_did = $1 and (claimed_by is not null or consumed_at is not null) limit $2))
   order by hash for update
), deleted as (
  delete from key_packages k using owned o where k.hash = o.hash and o.is_free returning 1
), kept as (
  update key_packages k
     set owner_did = '', key_package = null, device_id = null, signature_key_hash = null, reference = null,
         consumed_at = coalesce(k.consumed_at, 'epoch'), consumed_convo = coalesce(k.consumed_convo, ''),
         retired_at = coalesce(k.retired_at, now())
    from owned o
   where k.hash = o.hash and not o.is_free
  returning 1
)
select jsonb_build_object('keyPackages', (select count(*) from deleted), 'issuedKeyPackages', (select count(*) from kept))::text as counts,
       (select count(*) from owned) >= $2 as more

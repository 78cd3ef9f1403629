-- erasure/person: deletes what else is stored of a person: stored replies, its use of quotas, its devices and its key. Quotas that a
-- replica is settling stay until their windows end.
-- needs: the key packages of the person (key_packages/lock_owner).
-- $1 did   $2 maximum number of rows of each table
with requests as (
  delete from idempotency_records
   where (caller_did, method, key) in (select caller_did, method, key from idempotency_records where caller_did = $1 limit $2)
  returning 1
), in_use as materialized (
  select quota, key from allowances where key = substr(sha256(convert_to($1, 'UTF8')), 1, 16) for update skip locked
), quotas as (
  delete from allowances a using in_use u where a.quota = u.quota and a.key = u.key returning 1
), devices as (
  delete from devices where owner_did = $1 returning 1
), challenges as (
  delete from mailbox_challenges where whom = 'member ' || $1 returning 1
), documents as (
  delete from did_documents where did = $1 returning 1
), blobs as (
  -- Messages refer to them. What no message refers to expires.
  update blobs set owner_did = '' where key in (select key from blobs where owner_did = $1 limit $2) returning 1
)
select jsonb_build_object(
         'requests', (select count(*) from requests), 'quotas', (select count(*) from quotas), 'devices', (select count(*) from devices),
         'challenges', (select count(*) from challenges), 'documents', (select count(*) from documents),
         'blobs', (select count(*) from blobs))::text as counts,
       (select count(*) from requests) >= $2 or (select count(*) from blobs) >= $2 as more

-- sweeps/unused_blobs: deletes blobs that have expired and that no message refers to, and gives up their objects.
-- $1 maximum number of blobs
with unused as materialized (
  select key from blobs where ref_count = 0 and expires_at < now() order by expires_at limit $1 for update skip locked
), parts as (
  delete from blob_parts p using unused u where p.key = u.key returning p.key, p.part
), gone as (
  delete from blobs b using unused u where b.key = u.key and b.ref_count = 0 returning b.key
), given_up as (
  insert into blob_deletions (name)
  select 'blobs/' || left(key, 2) || '/' || key from gone union all select 'parts/' || key || '/' || part from parts
  on conflict (name) do nothing
)
select count(*) as deleted from gone

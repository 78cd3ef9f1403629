-- blobs/abort: ends an upload that is not complete, and gives up its objects. No row: the owner has no such upload.
-- $1 key   $2 owner
with parts as (
  delete from blob_parts p using blobs b where b.key = $1 and b.owner_did = $2 and b.stored_at is null and p.key = b.key
  returning p.key, p.part
), gone as (
  delete from blobs b where key = $1 and owner_did = $2 and stored_at is null returning key
), given_up as (
  insert into blob_deletions (name)
  select 'blobs/' || left(key, 2) || '/' || key from gone union all select 'parts/' || key || '/' || part from parts
  on conflict (name) do nothing
)
select key from gone

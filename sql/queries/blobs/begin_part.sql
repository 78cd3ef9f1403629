-- blobs/begin_part: notes that the bytes of a part will arrive, and lets the upload expire later. No row: the owner has no such upload.
-- $1 key   $2 owner   $3 part   $4 seconds until the upload expires   $5 maximum seconds from its beginning to that
with upload as (
  update blobs set expires_at = greatest(expires_at, least(now() + make_interval(secs => $4), created_at + make_interval(secs => $5)))
   where key = $1 and owner_did = $2 and stored_at is null and part_bytes is not null
  returning key, size_bytes, part_bytes
), noted as (
  insert into blob_parts (key, part) select key, $3 from upload
  where $3 between 1 and (size_bytes + part_bytes - 1) / part_bytes
  on conflict (key, part) do nothing
)
select size_bytes, part_bytes from upload

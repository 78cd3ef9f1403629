-- blobs/store: notes that all bytes of a blob are stored, and gives up its parts. No row: the owner has no such upload.
-- $1 key   $2 owner   $3 SHA-256   $4 seconds until it expires without a message that refers to it
with stored as (
  update blobs set sha256 = $3, stored_at = now(), expires_at = now() + make_interval(secs => $4)
   where key = $1 and owner_did = $2 and stored_at is null
  returning key, size_bytes, sha256, expires_at
), parts as (
  delete from blob_parts p using stored s where p.key = s.key returning p.key, p.part
), given_up as (
  insert into blob_deletions (name) select 'parts/' || key || '/' || part from parts
)
select size_bytes, sha256, expires_at from stored

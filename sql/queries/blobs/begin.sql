-- blobs/begin: begins an upload, unless the owner has as many as it may have or the conversation's blobs would have too many bytes. Returns
-- what decided, and in how many seconds the owner's next upload expires. Without expires_at nothing was written.
-- needs: the owner's lock (blobs/lock_owner), and that of the conversation (blobs/lock_convo).
-- $1 key   $2 convo_id   $3 owner   $4 bytes   $5 bytes of each part, or null   $6 seconds until it expires
-- $7 maximum number of uploads of the owner   $8 maximum bytes of the conversation's blobs
with owner as materialized (
  select count(*) as uploads, extract(epoch from min(expires_at) - now())::float8 as next_in from blobs where owner_did = $3 and stored_at is null and not is_body
), convo as materialized (
  select coalesce((select c.bytes from convo_blobs c where c.convo_id = $2), 0) as bytes
), begun as (
  insert into blobs (key, convo_id, owner_did, size_bytes, part_bytes, expires_at)
  select $1, $2, $3, $4, $5, now() + make_interval(secs => $6) from owner, convo where uploads < $7 and bytes + $4 <= $8
  returning expires_at
)
select uploads, next_in, bytes, (select expires_at from begun) as expires_at from owner, convo

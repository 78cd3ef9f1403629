-- blobs/store_body: notes that the bytes of a body are stored, and lets its message refer to it. No row: it has expired.
-- $1 key   $2 convo_id   $3 seq   $4 SHA-256
with stored as (
  update blobs set sha256 = $4, stored_at = now() where key = $1 and convo_id = $2 and is_body and stored_at is null
  returning key, convo_id
)
insert into blob_references (convo_id, seq, key) select convo_id, $3, key from stored returning key

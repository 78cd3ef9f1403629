-- blobs/store_part: notes that the bytes of a part are stored. No row: the upload has ended.
-- $1 key   $2 part
update blob_parts set stored_at = coalesce(stored_at, now()) where key = $1 and part = $2 returning 1 as stored

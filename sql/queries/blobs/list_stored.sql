-- blobs/list_stored: returns stored blobs in the order of their keys.
-- $1 after this key   $2 maximum number
select key, size_bytes from blobs where key > $1 and stored_at is not null order by key limit $2

-- blobs/is_stored: returns whether a blob is stored. No row: it is not.
-- $1 key
select 1 as stored from blobs where key = $1 and stored_at is not null

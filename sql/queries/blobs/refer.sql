-- blobs/refer: lets a message refer to blobs of its conversation whose bytes are stored. Returns how many there are. It locks them first: a
-- deletion that is running ends before, and the blob is not there any more.
-- $1 convo_id   $2 seq   $3 keys
with stored as materialized (
  select convo_id, key from blobs where key = any($3) and convo_id = $1 and stored_at is not null and not is_body order by key for no key update
), referred as (
  insert into blob_references (convo_id, seq, key) select convo_id, $2, key from stored
  returning 1
)
select count(*) as referred from referred

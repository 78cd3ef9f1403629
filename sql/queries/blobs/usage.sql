-- blobs/usage: returns the number of a person's uploads that are not complete, and the bytes of a conversation's blobs.
-- $1 did   $2 convo_id, or null
select (select count(*) from blobs where owner_did = $1 and stored_at is null and not is_body) as uploads,
       coalesce((select bytes from convo_blobs where convo_id = $2), 0) as bytes

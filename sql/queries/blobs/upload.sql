-- blobs/upload: returns an upload, or the blob that it has become, with the parts that are stored. No row: the owner has no such blob.
-- $1 key   $2 owner
select b.size_bytes, b.part_bytes, b.sha256, b.expires_at,
       array(select p.part from blob_parts p where p.key = b.key and p.stored_at is not null order by p.part) as parts
  from blobs b where b.key = $1 and b.owner_did = $2

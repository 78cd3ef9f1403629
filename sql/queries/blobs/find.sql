-- blobs/find: returns a blob that a member may read: a message that it can see refers to it, and it is not the message's body. No row for all
-- others.
-- $1 key   $2 did of the reader
select b.size_bytes, b.sha256
  from blobs b join members m on m.convo_id = b.convo_id
 where b.key = $1 and b.stored_at is not null and not b.is_body and m.member_did = $2 and m.left_at is null
   and exists (select from blob_references r where r.key = b.key and r.convo_id = b.convo_id and r.seq > m.joined_seq)

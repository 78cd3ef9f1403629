-- messages/find_by_id: returns a message of a sender by its id, and the blobs that it refers to.
-- $1 convo_id   $2 id   $3 sender
select seq, epoch, created_at, ciphertext, embed_type, embed_uri,
       array(select r.key from blob_references r where r.convo_id = messages.convo_id and r.seq = messages.seq order by r.key collate "C") as blobs
  from messages
 where convo_id = $1 and id = $2 and sender_did = $3 and message_type = 'app'

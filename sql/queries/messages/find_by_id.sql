-- messages/find_by_id: returns a message of a sender by its id, the SHA-256 of its ciphertext if that is a body, and the blobs that it refers
-- to beside it.
-- $1 convo_id   $2 id   $3 sender
select seq, epoch, created_at, ciphertext, embed_type, embed_uri, (select b.sha256 from blobs b where b.key = messages.body_key) as body_sha256,
       array(select r.key from blob_references r where r.convo_id = messages.convo_id and r.seq = messages.seq
                 and r.key is distinct from messages.body_key order by r.key collate "C") as blobs
  from messages
 where convo_id = $1 and id = $2 and sender_did = $3 and message_type = 'app'

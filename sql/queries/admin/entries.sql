-- admin/entries: returns the next entries of a log, ascending, within a number of rows and of bytes (at least one row).
-- $1 convo_id   $2 after this seq   $3 up to this seq   $4 rows   $5 bytes
with page as (
  select convo_id, seq, octet_length(ciphertext) + coalesce(body_bytes, 0) as size from messages
   where convo_id = $1 and seq > $2 and seq <= $3 order by seq limit $4
), fitting as (
  select convo_id, seq from (select *, sum(size) over (order by seq) as total from page) sized where total <= $5 or total = size
)
select m.seq, m.id, m.sender_did, m.message_type, m.generation, m.epoch, m.ciphertext, m.body_key, m.body_bytes, m.created_at, m.embed_type, m.embed_uri
  from messages m join fitting using (convo_id, seq)
 order by m.seq

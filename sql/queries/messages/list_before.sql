-- messages/list_before: the newest page before a position, ascending, within a number of rows and bytes (one row at least).
-- $1 convo_id   $2 joined_seq   $3 before this seq   $4 rows   $5 bytes
with page as (
  select convo_id, seq, octet_length(ciphertext) as size from messages
   where convo_id = $1 and seq > $2 and seq < $3 order by seq desc limit $4
), fitting as (
  select convo_id, seq from (select *, sum(size) over (order by seq desc) as total from page) sized
   where total <= $5 or total = size
)
select m.seq, m.id, m.sender_did, m.message_type, m.epoch, m.ciphertext, m.created_at, m.embed_type, m.embed_uri
  from messages m join fitting using (convo_id, seq)
 order by m.seq

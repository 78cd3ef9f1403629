-- messages/list_after: returns the page after a position, ascending, within a number of rows and of bytes of JSON (at
-- least one row). It contains only entries after the reader's join, by this very snapshot, and nothing for callers that
-- are not members. JSON adds base64, escapes and the names of the fields to an entry.
-- $1 convo_id   $2 did of the reader   $3 after this seq   $4 rows   $5 bytes of JSON
with page as (
  select convo_id, seq,
         (octet_length(ciphertext) + coalesce(body_bytes, 0)) * 4 / 3 + 6 * octet_length(concat(embed_type, embed_uri)) + 1024 as size
    from messages
   where convo_id = $1 and seq > $3
     and seq > (select joined_seq from members where convo_id = $1 and member_did = $2 and left_at is null)
   order by seq limit $4
), fitting as (
  select convo_id, seq from (select *, sum(size) over (order by seq) as total from page) sized
   where total <= $5 or total = size
)
select m.seq, m.id, m.sender_did, m.message_type, m.generation, m.epoch, m.ciphertext, m.body_key, m.body_bytes, m.created_at, m.embed_type, m.embed_uri
  from messages m join fitting using (convo_id, seq)
 order by m.seq

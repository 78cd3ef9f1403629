-- events/entries: returns the next entries of several conversations, each after a position, ascending, within a number
-- of rows per conversation and a number of bytes in total (at least one row), with the version of each roster, and the
-- transaction of entries of this era. It does not check who may see them. A conversation that has ended has none.
-- In step: $1 convo_ids   $2 after these seqs.   $3 rows per conversation   $4 bytes
with page as (
  select w.convo_id, c.roster_version, m.seq, octet_length(m.ciphertext) + coalesce(m.body_bytes, 0) as size
    from unnest($1::text[], $2::bigint[]) w (convo_id, after)
   -- With `offset 0` PostgreSQL can only look each one up. It may choose to read the whole table for a plain join.
   cross join lateral (select roster_version from conversations where id = w.convo_id and ended_at is null offset 0) c
   cross join lateral (select seq, ciphertext, body_bytes from messages e
                        where e.convo_id = w.convo_id and e.seq > w.after order by e.seq limit $3) m
), fitting as (
  select convo_id, roster_version, seq from (select *, sum(size) over (order by convo_id, seq) as total from page) sized
   where total <= $4 or total = size
)
select m.convo_id, m.seq, m.id, m.sender_did, m.message_type, m.generation, m.epoch, m.ciphertext, m.body_key, m.body_bytes, m.created_at, m.embed_type,
       m.embed_uri,
       fitting.roster_version,
       case when m.era = (select era from incarnations order by id desc limit 1) then m.tx::text::bigint end as tx
  from messages m join fitting using (convo_id, seq)
 order by m.convo_id, m.seq

-- blobs: counts of blobs or references are wrong, a message refers to a blob that is not stored, or its body is not what it refers to (P2)
select b.convo_id, 'blob ' || b.key || ' has ' || count(r.key) || ' references and counts ' || b.ref_count as finding
  from blobs b left join blob_references r on r.key = b.key
 group by b.convo_id, b.key, b.ref_count having count(r.key) <> b.ref_count
union all
select r.convo_id, 'entry ' || r.seq || ' refers to blob ' || r.key || ', which is not stored'
  from blob_references r left join blobs b on b.key = r.key and b.convo_id = r.convo_id where b.stored_at is null
union all
select r.convo_id, 'entry ' || r.seq || ' refers to blob ' || r.key || ' and is not there'
  from blob_references r where not exists (select from messages m where m.convo_id = r.convo_id and m.seq = r.seq)
union all
select coalesce(c.convo_id, b.convo_id),
       'the conversation has ' || coalesce(b.bytes, 0) || ' bytes in ' || coalesce(b.blobs, 0) || ' blobs and counts '
       || coalesce(c.bytes, 0) || ' in ' || coalesce(c.blobs, 0)
  from convo_blobs c full join (select convo_id, sum(size_bytes) as bytes, count(*) as blobs from blobs group by convo_id) b using (convo_id)
 where (c.bytes, c.blobs) is distinct from (b.bytes::bigint, b.blobs)
union all
select b.convo_id, 'blob ' || b.key || ' is to be deleted and is there' from blobs b join blob_deletions d on d.name = 'blobs/' || left(b.key, 2) || '/' || b.key
union all
select m.convo_id, 'entry ' || m.seq || ' has body ' || m.body_key || ' of ' || m.body_bytes || ' bytes, and '
       || case when r.key is null then 'does not refer to it' when not b.is_body then 'it is no body' else 'it has ' || b.size_bytes end
  from messages m
  left join blob_references r on r.convo_id = m.convo_id and r.seq = m.seq and r.key = m.body_key
  left join blobs b on b.key = r.key
 where m.body_key is not null and (r.key is null or not b.is_body or b.size_bytes <> m.body_bytes)
union all
select r.convo_id, 'entry ' || r.seq || ' refers to body ' || r.key || ', which is not its own'
  from blob_references r join blobs b on b.key = r.key join messages m on m.convo_id = r.convo_id and m.seq = r.seq
 where b.is_body and m.body_key is distinct from r.key

-- blobs: counts of blobs or references are wrong, or a message refers to a blob that is not stored (P2)
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

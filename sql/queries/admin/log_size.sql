-- admin/log_size: returns the number of entries of a part of a log that still have their bytes, the bytes, and the last seq of the part; null at the
-- end.
-- $1 convo_id   $2 after this seq   $3 maximum number of entries
select count(*) filter (where bytes > 0) as entries, coalesce(sum(bytes), 0)::bigint as bytes, max(seq) as last
  from (select seq, octet_length(ciphertext) + coalesce(body_bytes, 0) as bytes from messages where convo_id = $1 and seq > $2 order by seq limit $3) m

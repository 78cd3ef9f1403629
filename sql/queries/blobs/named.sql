-- blobs/named: returns those names of objects that belong to a blob, a part or a deletion.
-- $1 names of objects, with in step: $2 the key in each   $3 the number of the part, or null
select n.name
  from unnest($1::text[], $2::text[], $3::integer[]) n (name, key, part)
 where exists (select from blob_deletions d where d.name = n.name)
    or n.part is null and exists (select from blobs b where b.key = n.key)
    or exists (select from blob_parts p where p.key = n.key and p.part = n.part)

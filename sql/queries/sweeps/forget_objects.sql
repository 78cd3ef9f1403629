-- sweeps/forget_objects: forgets objects whose bytes were deleted now and that were given up long enough ago that no upload is running.
-- $1 names   $2 seconds since they were given up
with gone as (
  delete from blob_deletions where name = any($1) and since < now() - make_interval(secs => $2) returning 1
)
select count(*) as deleted from gone

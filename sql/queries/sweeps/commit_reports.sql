-- sweeps/commit_reports: deletes old reports of commits.
-- $1 first tid   $2 tid after the last   $3 made before this
with gone as (
  delete from commit_reports where ctid >= $1::text::tid and ctid < $2::text::tid and reported_at < $3 returning 1
)
select count(*) as deleted from gone

-- sweeps/begin: starts a pass by PostgreSQL's clock, or continues one whose replica is silent. No row: neither is due.
-- $1 job   $2 how long ago the last one must have begun, in seconds
-- $3 the age from which on rows may be deleted, in seconds
-- $4 how long a replica that makes a pass may be silent, in seconds
insert into sweeps (job, cutoff, started_at, moved_at)
values ($1, clock_timestamp() - make_interval(secs => $3), clock_timestamp(), clock_timestamp())
on conflict (job) do update
   set cutoff = greatest(sweeps.cutoff, excluded.cutoff), started_at = excluded.started_at, moved_at = excluded.moved_at,
       place = case when sweeps.finished_at is null then sweeps.place end,
       deleted = case when sweeps.finished_at is null then sweeps.deleted else 0 end, finished_at = null
 where case when sweeps.finished_at is null
            then greatest(sweeps.started_at, sweeps.moved_at) <= clock_timestamp() - make_interval(secs => $4)
            else sweeps.started_at <= clock_timestamp() - make_interval(secs => $2) end
returning clock_timestamp() - make_interval(secs => $3) as cutoff, place

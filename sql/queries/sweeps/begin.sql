-- sweeps/begin: begins a pass, unless one was begun a short while ago here or at another replica: then no row.
-- $1 job   $2 how long ago the last one must have begun, in seconds   $3 what is older than this may be deleted
insert into sweeps (job, cutoff, started_at) values ($1, $3, clock_timestamp())
on conflict (job) do update
   set cutoff = greatest(sweeps.cutoff, excluded.cutoff), started_at = clock_timestamp(), finished_at = null, deleted = 0
 where sweeps.started_at <= clock_timestamp() - make_interval(secs => $2)
returning job

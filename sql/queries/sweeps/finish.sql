-- sweeps/finish: finishes a pass.
-- $1 job
update sweeps set finished_at = clock_timestamp(), last_finished_at = clock_timestamp(), place = null where job = $1

-- sweeps/finish: ends a pass.   $1 job
update sweeps set finished_at = clock_timestamp() where job = $1

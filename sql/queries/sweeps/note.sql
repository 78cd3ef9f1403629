-- sweeps/note: records the progress of the running pass.
-- $1 job   $2 rows deleted since the last note   $3 where it goes on
update sweeps set deleted = deleted + $2, place = $3, moved_at = clock_timestamp() where job = $1

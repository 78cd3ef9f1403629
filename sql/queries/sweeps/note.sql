-- sweeps/note: adds to what the running pass has deleted.   $1 job   $2 rows
update sweeps set deleted = deleted + $2 where job = $1

-- background/aside: what is set aside of this work, and whether its time has come.   $1 work
select item, retry_at <= clock_timestamp() as due from set_aside where work = $1

-- background/aside: returns the items of this work that are set aside, and whether each is due again.
-- $1 work
select item, retry_at <= clock_timestamp() as due from set_aside where work = $1

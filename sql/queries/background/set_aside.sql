-- background/set_aside: leaves something out of this work for a while: an hour after its first failure, twice as long after each further
-- one, a week at most. Where too much is left out already, it is not what is left out that fails, and no more is noted.
-- $1 work   $2 item   $3 why   $4 most items
insert into set_aside (work, item, last_error, retry_at)
select $1, $2, $3, clock_timestamp() + interval '1 hour'
 where (select count(*) from (select from set_aside where work = $1 limit $4) a) < $4
on conflict (work, item) do update
   set failures = set_aside.failures + 1, last_error = excluded.last_error,
       retry_at = clock_timestamp() + least(interval '1 hour' * 2 ^ least(set_aside.failures, 10), interval '7 days')

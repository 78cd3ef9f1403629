-- background/set_aside: sets an item of this work aside: for an hour after its first failure, twice as long after each
-- further one, a week at most. With too many items set aside, the items are not the cause, and no further one is added.
-- $1 work   $2 item   $3 reason   $4 maximum number of items
insert into set_aside (work, item, last_error, retry_at)
select $1, $2, $3, clock_timestamp() + interval '1 hour'
 where (select count(*) from (select from set_aside where work = $1 limit $4) a) < $4
on conflict (work, item) do update
   set failures = set_aside.failures + 1, last_error = excluded.last_error,
       retry_at = clock_timestamp() + least(interval '1 hour' * 2 ^ least(set_aside.failures, 10), interval '7 days')

-- key_packages/stats: counts an owner's packages by cipher suite: those that can be issued, and those that were taken
-- lately (issued, or used without that).
-- $1 owner   $2 cipher suite or null   $3 now   $4 taken since   $5 taken today since   $6 maximum number of taken ones
with free as (
  select cipher_suite, last_resort, expires_at from key_packages
   where owner_did = $1 and claimed_by is null and consumed_at is null and retired_at is null and expires_at > $3
     and ($2::text is null or cipher_suite = $2)
), taken as (
  select cipher_suite, coalesce(claimed_at, consumed_at) as taken_at, consumed_at is null and claim_expires_at > $3 as reserved
    from key_packages
   where owner_did = $1 and coalesce(claimed_at, consumed_at) > 'epoch' and coalesce(claimed_at, consumed_at) > $4
     and ($2::text is null or cipher_suite = $2)
   order by coalesce(claimed_at, consumed_at) desc limit $6
)
select cipher_suite, sum(available)::bigint as available, bool_or(last_resort) as last_resort, min(expires_at) as expires_at,
       sum(taken)::bigint as taken, sum(today)::bigint as today, sum(reserved)::bigint as reserved
  from (select cipher_suite, (not last_resort)::integer as available, last_resort,
               case when not last_resort then expires_at end as expires_at, 0 as taken, 0 as today, 0 as reserved
          from free
        union all
        select cipher_suite, 0, false, null, 1, (taken_at > $5)::integer, reserved::integer from taken) counted
 group by cipher_suite order by cipher_suite

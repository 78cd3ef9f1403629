-- key_packages/list_taken: returns packages of an owner that were taken lately, newest first, before a place in that order.
-- $1 owner   $2 taken since   $3 before this time, or null   $4 and this hash   $5 maximum number
select hash, cipher_suite, nullif(consumed_convo, '') as convo_id, coalesce(claimed_at, consumed_at) as taken_at
  from key_packages
 where owner_did = $1 and coalesce(claimed_at, consumed_at) > 'epoch' and coalesce(claimed_at, consumed_at) > $2
   and ($3::timestamptz is null or (coalesce(claimed_at, consumed_at), hash) < ($3, $4::bytea))
 order by coalesce(claimed_at, consumed_at) desc, hash desc limit $5

-- key_packages/consume: uses up the named packages that their callers may use; a last-resort one stays. Rows: those found, in one
-- order for everybody, so that two callers cannot wait for each other.
-- In step, no hash twice: $1 hashes   $2 owners   $3 callers   $4 convo_ids   $5 now
with named as materialized (
  select k.hash, k.last_resort, n.convo_id from key_packages k
   join unnest($1::bytea[], $2::text[], $3::text[], $4::text[]) n (hash, owner_did, caller_did, convo_id)
     on n.hash = k.hash and n.owner_did = k.owner_did
  where k.consumed_at is null and (k.claimed_by is null or k.claimed_by = n.caller_did)
  order by k.hash for update of k
), used as (
  update key_packages k set consumed_at = $5, consumed_convo = named.convo_id
    from named where k.hash = named.hash and not named.last_resort
)
select hash from named

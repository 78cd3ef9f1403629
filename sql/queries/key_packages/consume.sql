-- key_packages/consume: marks packages of the conversation's suite as used, if the caller may use them, and returns
-- those found. A last-resort package stays. All replicas lock packages in one order, so that two callers cannot
-- deadlock.
-- $1 hashes   $2 owners, in step   $3 caller   $4 convo_id   $5 now
with named as materialized (
  select k.hash, k.last_resort from key_packages k
   join unnest($1::bytea[], $2::text[]) n (hash, did) on n.hash = k.hash and n.did = k.owner_did
  where k.consumed_at is null and (k.claimed_by is null or k.claimed_by = $3)
    and k.cipher_suite = (select c.cipher_suite from conversations c where c.id = $4)
  order by k.hash for update of k
), used as (
  update key_packages k set consumed_at = $5, consumed_convo = $4
    from named where k.hash = named.hash and not named.last_resort
)
select hash from named

-- key_packages/claim_free: issues one package per owner to the caller, except packages that another transaction has
-- locked. The lock is taken on the table itself, in a step that runs once.
-- $1 owners   $2 cipher suite   $3 caller   $4 now   $5 end of the lease
with picked as materialized (
  select p.hash from unnest($1::text[]) o (did)
  cross join lateral (select k.hash from key_packages k
                       where k.owner_did = o.did and k.cipher_suite = $2 and k.claimed_by is null and k.consumed_at is null
                         and not k.last_resort and k.expires_at > $4
                       order by k.created_at limit 1 for update skip locked) p
)
update key_packages k set claimed_by = $3, claimed_at = $4, claim_expires_at = $5
  from picked where k.hash = picked.hash
returning k.owner_did, k.hash, k.key_package, k.cipher_suite

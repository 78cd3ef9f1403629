-- events/last_resort_used: tells the owners of last-resort packages that were issued, unless they were told of the same
-- package a short while ago. A package that another transaction has locked is being announced there.
-- $1 hashes   $2 now   $3 not told since
with due as materialized (
  select hash from key_packages
   where hash = any($1) and last_resort and (announced_at is null or announced_at < $3)
   order by hash for update skip locked
), told as (
  update key_packages k set announced_at = $2 from due where k.hash = due.hash
  returning k.owner_did, k.hash, k.cipher_suite
)
insert into event_stream (recipient_did, event_type, payload)
select owner_did, 'lastResortUsed', jsonb_build_object('keyPackageHash', encode(hash, 'hex'), 'cipherSuite', cipher_suite)
  from told

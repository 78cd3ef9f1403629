-- welcomes/confirm: deletes the Welcomes that the recipient has opened, and marks it as active. The position must be
-- locked, so that the last of two recipients deletes the bytes.
-- needs: the conversation, exclusively, and held, so that of two recipients the last one takes the bytes along.
-- $1 convo_id   $2 recipient   $3 key package hash or null   $4 epoch or null   $5 device_id or null
with opened as (
  select id, welcome_id from welcome_messages
   where convo_id = $1 and recipient_did = $2 and state = 'available'
     and ($3::bytea is null or key_package_hash = $3) and ($4::bigint is null or epoch = $4)
     and ($5::text is null or (select k.device_id from key_packages k where k.hash = key_package_hash) = $5)
   order by id for update
), there as (
  update members set was_there = true
   where convo_id = $1 and member_did = $2 and not was_there and exists (select from opened)
)
update welcome_messages a set state = 'consumed', confirmed_at = now(), welcome_id = null
  from opened where a.id = opened.id
returning opened.welcome_id

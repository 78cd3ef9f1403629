-- welcomes/confirm: destroys what the recipient has opened.   $1 convo_id   $2 recipient   $3 key package hash or null
with opened as (
  select id, welcome_id from welcome_messages
   where convo_id = $1 and recipient_did = $2 and state = 'available' and ($3::bytea is null or key_package_hash = $3)
   order by id for update
)
update welcome_messages a set state = 'consumed', confirmed_at = now(), welcome_id = null
  from opened where a.id = opened.id
returning opened.welcome_id

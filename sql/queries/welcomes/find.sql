-- welcomes/find: the newest Welcome of a member, waiting before consumed.   $1 convo_id   $2 recipient   $3 key package hash or null
select a.state, a.key_package_hash, a.epoch, w.welcome
  from welcome_messages a left join welcomes w on w.id = a.welcome_id
 where a.convo_id = $1 and a.recipient_did = $2 and ($3::bytea is null or a.key_package_hash = $3)
 order by a.state, a.created_at desc, a.id desc limit 1

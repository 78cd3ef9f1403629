-- welcomes/find: the newest Welcome of a member, waiting before consumed, and whether it is from an earlier membership.
-- $1 convo_id   $2 recipient   $3 key package hash or null   $4 epoch or null
select a.state, a.key_package_hash, a.epoch, w.welcome, a.created_at < m.joined_at as past
  from welcome_messages a
  join members m on m.convo_id = a.convo_id and m.member_did = a.recipient_did
  left join welcomes w on w.id = a.welcome_id
 where a.convo_id = $1 and a.recipient_did = $2
   and ($3::bytea is null or a.key_package_hash = $3) and ($4::bigint is null or a.epoch = $4)
 order by a.state, a.created_at desc, a.id desc limit 1

-- welcomes/state: returns whether a Welcome waits for a member, the newest before others, or that there was one. A
-- Welcome that a later invitation has replaced counts as opened.
-- $1 convo_id   $2 recipient   $3 key package hash or null   $4 epoch or null
select a.state = 'available' and ($4::bigint is null or a.epoch = $4) as waits, a.epoch
  from welcome_messages a
 where a.convo_id = $1 and a.recipient_did = $2
   and (($3::bytea is null or a.key_package_hash = $3) and ($4::bigint is null or a.epoch = $4) or a.epoch > $4)
 order by coalesce(a.epoch > $4, false), a.state, a.created_at desc, a.id desc limit 1

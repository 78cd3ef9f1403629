-- welcomes/state: returns whether a Welcome waits for a member, the newest before others, or that there was one. A
-- Welcome that a later invitation has replaced counts as opened. devices: the number of devices for which a Welcome of that epoch waits.
-- $1 convo_id   $2 recipient   $3 key package hash or null   $4 epoch or null   $5 device_id or null
select a.state = 'available' and ($4::bigint is null or a.epoch = $4) as waits, a.epoch,
       (select count(distinct coalesce(k.device_id, '')) from welcome_messages o left join key_packages k on k.hash = o.key_package_hash
         where o.convo_id = $1 and o.recipient_did = $2 and o.state = 'available' and o.epoch = a.epoch) as devices
  from welcome_messages a
 where a.convo_id = $1 and a.recipient_did = $2
   and (($3::bytea is null or a.key_package_hash = $3) and ($4::bigint is null or a.epoch = $4) or a.epoch > $4)
   and ($5::text is null or (select k.device_id from key_packages k where k.hash = a.key_package_hash) = $5)
 order by coalesce(a.epoch > $4, false), a.state, a.created_at desc, a.id desc limit 1

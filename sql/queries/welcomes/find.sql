-- welcomes/find: returns the newest Welcome of a member, waiting before consumed, and whether it is from an earlier
-- membership or group; the references of the selected key packages that it is for, null if one of them is unknown; and the
-- entry after which its recipient reads: the commit of its epoch, which may be newer than the membership.
-- $1 convo_id   $2 recipient   $3 key package hash or null   $4 epoch or null   $5 device_id or null
select a.state, a.key_package_hash, a.generation, a.epoch, w.welcome, a.created_at < m.joined_at or a.generation < c.generation as past,
       greatest(m.joined_seq, c.group_seq,
                (select e.seq from messages e
                  where e.convo_id = $1 and e.message_type = 'commit' and e.epoch = a.epoch and e.generation = a.generation)) as seq,
       (select case when count(k.reference) = count(*) then array_agg(k.reference) end
          from welcome_messages o left join key_packages k on k.hash = o.key_package_hash
         where o.convo_id = $1 and o.recipient_did = $2 and o.welcome_id = a.welcome_id
           and ($3::bytea is null or o.key_package_hash = $3) and ($5::text is null or k.device_id = $5)) as own_parts
  from welcome_messages a
  join members m on m.convo_id = a.convo_id and m.member_did = a.recipient_did
  join conversations c on c.id = a.convo_id
  left join welcomes w on w.id = a.welcome_id
 where a.convo_id = $1 and a.recipient_did = $2
   and ($3::bytea is null or a.key_package_hash = $3) and ($4::bigint is null or a.epoch = $4)
   and ($5::text is null or (select k.device_id from key_packages k where k.hash = a.key_package_hash) = $5)
 order by a.state, a.created_at desc, a.id desc limit 1

-- devices: a key package, a Welcome or a membership belongs to a device that is not registered, or a device is in a group without its owner
select null::text as convo_id, 'key package ' || encode(k.hash, 'hex') || ' can be issued for the unknown device ' || k.device_id as finding
  from key_packages k
 where k.device_id is not null and k.claimed_by is null and k.consumed_at is null
   and not exists (select from devices d where d.owner_did = k.owner_did and d.device_id = k.device_id and d.deleted_at is null)
union all
select m.convo_id, 'the unknown device ' || m.device_id || ' is recorded as a member'
  from device_memberships m
 where not exists (select from devices d where d.owner_did = m.owner_did and d.device_id = m.device_id)
union all
select m.convo_id, 'device ' || m.device_id || ' belongs to a DID that was never a member'
  from device_memberships m
 where not exists (select from members p where p.convo_id = m.convo_id and p.member_did = m.owner_did)
union all
select w.convo_id, 'Welcome ' || w.id || ' waits for the unknown device ' || k.device_id
  from welcome_messages w join key_packages k on k.hash = w.key_package_hash
 where w.state = 'available' and k.device_id is not null
   and not exists (select from devices d where d.owner_did = k.owner_did and d.device_id = k.device_id)

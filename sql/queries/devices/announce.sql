-- devices/announce: asks the members of conversations to add a new device, except where it is in the group or they were asked already. It is
-- in the group where a Welcome was made for its signature key before it was registered.
-- needs: the device (devices/hold).
-- $1 owner   $2 device_id   $3 conversations   $4 ids of additions, in step
with seen as (
  select n.convo_id, n.id,
         (select max(w.epoch) from welcome_messages w join key_packages k on k.hash = w.key_package_hash
           where w.recipient_did = $1 and w.convo_id = n.convo_id and w.generation = c.generation
             and (m.joined_seq < c.group_seq or w.epoch >= m.joined_epoch)
             and k.owner_did = $1 and k.signature_key_hash = sha256(d.signature_key)) as epoch
    from unnest($3::text[], $4::text[]) n (convo_id, id)
    join conversations c on c.id = n.convo_id
    join members m on m.convo_id = n.convo_id and m.member_did = $1
    join devices d on d.owner_did = $1 and d.device_id = $2
), added as (
  insert into device_memberships (convo_id, owner_did, device_id, epoch, addition_id)
  select convo_id, $1, $2, epoch, case when epoch is null then id end from seen
  on conflict (convo_id, owner_did, device_id) do nothing
  returning convo_id, addition_id
)
insert into event_stream (convo_id, event_type, payload)
select convo_id, 'newDevice', jsonb_build_object('did', $1::text, 'deviceId', $2::text, 'additionId', addition_id)
  from added where addition_id is not null

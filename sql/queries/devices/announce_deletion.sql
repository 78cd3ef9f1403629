-- devices/announce_deletion: tells the members of conversations that a device was deleted, and forgets that it was in their groups.
-- needs: the device (devices/hold).
-- $1 owner   $2 device_id   $3 conversations
with left_groups as (
  delete from device_memberships where owner_did = $1 and device_id = $2 and convo_id = any($3)
)
insert into event_stream (convo_id, event_type, payload)
select convo_id, 'deviceDeleted', jsonb_build_object('did', $1::text, 'deviceId', $2::text) from unnest($3::text[]) n (convo_id)

-- device_additions/complete: notes that a device is in the group, as the GroupInfo of the present epoch shows. Nothing is noted in another epoch.
-- needs: the addition (device_additions/hold).
-- $1 addition_id   $2 epoch
update device_memberships a set epoch = $2 from conversations c
 where a.addition_id = $1 and a.epoch is null and c.id = a.convo_id and c.current_epoch = $2

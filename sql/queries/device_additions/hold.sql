-- device_additions/hold: locks an addition.
-- $1 addition_id
select 1 as held from device_memberships where addition_id = $1 for update

-- devices/count: returns the number of a person's devices.
-- $1 owner
select count(*) as registered from devices where owner_did = $1 and deleted_at is null

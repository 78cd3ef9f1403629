-- welcomes/report: records why a recipient could not join. The Welcome stays available.
-- $1 convo_id   $2 recipient   $3 key package hash or null   $4 epoch or null   $5 device_id or null   $6 what it said
update welcome_messages set error_details = $6
 where convo_id = $1 and recipient_did = $2 and state = 'available'
   and ($3::bytea is null or key_package_hash = $3) and ($4::bigint is null or epoch = $4)
   and ($5::text is null or (select k.device_id from key_packages k where k.hash = key_package_hash) = $5)

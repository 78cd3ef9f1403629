-- devices/waiting_welcomes: returns the Welcomes that wait for a device in some conversations, and their lines for it.
-- $1 owner   $2 device_id   $3 conversations
select w.id, w.welcome_id from welcome_messages w
 where w.recipient_did = $1 and w.convo_id = any($3) and w.state = 'available'
   and (select k.device_id from key_packages k where k.hash = w.key_package_hash) = $2

-- welcomes/report: records that a recipient cannot open its Welcomes and why, and tells the members, once for each. They
-- stay available.
-- needs: the conversation, exclusively, and held, so that events have the order of commits.
-- $1 convo_id   $2 recipient   $3 key package hash or null   $4 epoch or null   $5 device_id or null   $6 the recipient's words
with reported as (
  select id, rejected_at is null as is_first from welcome_messages
   where convo_id = $1 and recipient_did = $2 and state = 'available'
     and ($3::bytea is null or key_package_hash = $3) and ($4::bigint is null or epoch = $4)
     and ($5::text is null or (select k.device_id from key_packages k where k.hash = key_package_hash) = $5)
   order by id for update
), noted as (
  update welcome_messages w set error_details = $6, rejected_at = coalesce(w.rejected_at, now())
    from reported r where w.id = r.id
  returning w.id, w.epoch, w.key_package_hash, r.is_first
)
insert into event_stream (convo_id, event_type, payload)
select $1, 'welcomeRejected',
       jsonb_build_object('did', $2::text, 'epoch', epoch, 'keyPackageHash', encode(key_package_hash, 'hex'))
  from noted where is_first order by id

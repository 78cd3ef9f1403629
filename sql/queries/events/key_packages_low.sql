-- events/key_packages_low: tells the owners of those devices that have few one-time key packages left.
-- Subqueries hide the length of the lists, for which PostgreSQL would plan the statement anew each time.
-- $1 owners   $2 their devices, in step   $3 now   $4 fewer than this many
insert into event_stream (recipient_did, event_type, payload)
select w.did, 'keyPackagesLow',
       jsonb_strip_nulls(jsonb_build_object('available', left_over.available,
                                            'deviceId', case when w.device like 'd%' then substr(w.device, 2) end))
  from unnest((select $1::text[]), (select $2::text[])) w (did, device)
 cross join lateral (select count(*) as available from key_packages k
                      where k.owner_did = w.did and device_key(k.device_id, k.signature_key_hash) = w.device
                        and k.claimed_by is null and k.consumed_at is null and not k.last_resort and k.expires_at > $3) left_over
 where left_over.available < $4

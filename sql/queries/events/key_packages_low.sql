-- events/key_packages_low: tells those owners that have few one-time key packages left.
-- $1 owners   $2 now   $3 fewer than this many
insert into event_stream (recipient_did, event_type, payload)
select o.did, 'keyPackagesLow', jsonb_build_object('available', left_over.available)
  from unnest($1::text[]) o (did)
 cross join lateral (select count(*) as available from key_packages k
                      where k.owner_did = o.did and k.claimed_by is null and k.consumed_at is null and not k.last_resort
                        and k.expires_at > $2) left_over
 where left_over.available < $3

-- suspensions/add: suspends DIDs. Suspended DIDs get the new reason.
-- $1 dids   $2 reason
insert into suspensions (did, reason)
select distinct did, $2 from unnest($1) as did
on conflict (did) do update set reason = excluded.reason
returning did

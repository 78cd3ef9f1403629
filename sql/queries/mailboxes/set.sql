-- mailboxes/set: sets, replaces or removes a mailbox. Waiting envelopes go to the new one after it is verified
-- (mailbox_begins_anew). A mailbox that did not exist, was refused or was suspended gets only entries that are written
-- from now on.
-- $1 did   $2 convo_id, or empty for all others   $3 provider   $4 zone   $5 url   $6 host   $7 secret
insert into mailboxes (member_did, convo_id, provider, zone, url, host, secret) values ($1, $2, $3, $4, $5, $6, $7)
on conflict (member_did, convo_id) do update
   set provider = excluded.provider, zone = excluded.zone, url = excluded.url, host = excluded.host, secret = excluded.secret,
       updated_at = now(),
       era = case when mailboxes.provider = 'none' or mailboxes.state in ('refused', 'suspended')
                  then excluded.era else mailboxes.era end,
       tx = case when mailboxes.provider = 'none' or mailboxes.state in ('refused', 'suspended')
                 then excluded.tx else mailboxes.tx end

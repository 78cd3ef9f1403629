-- admin/person: returns what is stored of a person beside its conversations, without content. The counts are what an erasure changes.
-- $1 did
select jsonb_build_object(
         'did', $1::text,
         'suspended', (select jsonb_build_object('since', s.suspended_at, 'reason', s.reason) from suspensions s where s.did = $1),
         'lastSeen', (select fetched_at from did_documents where did = $1),
         'devices', (select coalesce(jsonb_agg(to_jsonb(d)), '[]') from (
                       select device_id as "deviceId", name, registered_at as "registeredAt", last_seen_at as "lastSeenAt", deleted_at as "deletedAt"
                         from devices where owner_did = $1 order by last_seen_at desc, device_id) d),
         'mailboxes', (select coalesce(jsonb_agg(to_jsonb(b)), '[]') from (
                         select convo_id as "convoId", provider, host, state, reason from mailboxes where member_did = $1 order by convo_id) b),
         'blobs', (select jsonb_build_object('bytes', coalesce(sum(size_bytes), 0), 'uploads', count(*) filter (where stored_at is null))
                     from blobs where owner_did = $1))::text as found,
       jsonb_build_object(
         'devices', (select count(*) from devices where owner_did = $1),
         'keyPackages', (select count(*) from key_packages
                          where owner_did = $1 and claimed_by is null and consumed_at is null and not last_resort),
         'issuedKeyPackages', (select count(*) from key_packages where owner_did = $1 and (claimed_by is not null or consumed_at is not null))
                              + (select count(*) from key_packages
                                  where owner_did = $1 and claimed_by is null and consumed_at is null and last_resort),
         'keyPackagesOfOthers', (select count(*) from key_packages where claimed_by = $1 and claimed_by is not null and consumed_at is null)
                                + (select count(*) from key_packages where claimed_by = $1 and claimed_by <> '' and consumed_at is not null),
         'mailboxes', (select count(*) from mailboxes where member_did = $1),
         'challenges', (select count(*) from mailbox_challenges where whom = 'member ' || $1),
         'requests', (select count(*) from idempotency_records where caller_did = $1),
         'quotas', (select count(*) from allowances where key = substr(sha256(convert_to($1, 'UTF8')), 1, 16)),
         'documents', (select count(*) from did_documents where did = $1),
         'blobs', (select count(*) from blobs where owner_did = $1))::text as counts

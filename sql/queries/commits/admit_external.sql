-- commits/admit_external: counts an external commit that this transaction has accepted, and notes that its sender, and the device if it is
-- registered, is in the group, unless the device or the conversation has had too many of them in the last seconds. Returns the milliseconds until there is room; null if it
-- was counted.
-- needs: the conversation, exclusively, with its row locked.
-- $1 convo_id   $2 sender   $3 identity of the leaf   $4 seconds   $5 most in a conversation in these seconds; 0 is no limit
-- $6 epoch that the commit creates   $7 signature key of the leaf
with recent as materialized (
  select identity, accepted_at, row_number() over (order by accepted_at desc) as nth from external_commits
   where convo_id = $1 and accepted_at > clock_timestamp() - make_interval(secs => $4)
), blocking as materialized (
  -- The device's last one, and the last but so many of all.
  select max(accepted_at) as since from recent where identity = $3 or $5 > 0 and nth = $5
), counted as (
  insert into external_commits (convo_id, identity, accepted_at)
  select $1, $3, clock_timestamp() from blocking where since is null
  on conflict (convo_id, identity) do update set accepted_at = excluded.accepted_at
), entered as (
  update members m set in_group = true from blocking b
   where b.since is null and m.convo_id = $1 and m.member_did = $2 and not m.in_group
), arrived as (
  insert into device_memberships (convo_id, owner_did, device_id, epoch)
  select $1, d.owner_did, d.device_id, $6
    from blocking b join devices d on d.owner_did = $2 and d.signature_key = $7 and d.deleted_at is null
   where b.since is null
     -- The deletion of the device waits.
     for share of d
  on conflict (convo_id, owner_did, device_id) do update set epoch = excluded.epoch
)
select ceil(extract(epoch from since + make_interval(secs => $4) - clock_timestamp()) * 1000)::bigint as wait_ms from blocking

-- device_additions/find: returns an addition to a member that is in the group. early: the owner's own devices come first. No row: no such
-- addition, the device was deleted, or the caller or the owner is not in the group.
-- $1 addition_id   $2 caller   $3 seconds for which only the owner's devices may claim it
select a.convo_id, a.owner_did, a.device_id, d.signature_key, a.epoch is not null as completed, c.cipher_suite,
       case when a.claim_expires_at > clock_timestamp() then a.claimed_by end as claimed_by,
       a.owner_did <> $2 and a.created_at > clock_timestamp() - make_interval(secs => $3) as early
  from device_memberships a
  join devices d on d.owner_did = a.owner_did and d.device_id = a.device_id and d.deleted_at is null
  join conversations c on c.id = a.convo_id
  join members m on m.convo_id = a.convo_id and m.member_did = $2 and m.left_at is null and m.in_group
  join members p on p.convo_id = a.convo_id and p.member_did = a.owner_did and p.left_at is null and p.in_group
 where a.addition_id = $1

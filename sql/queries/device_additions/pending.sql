-- device_additions/pending: returns devices that members may add, in conversations in whose groups the caller and the owner are. Only their
-- owner sees their names.
-- $1 caller   $2 conversations, none for all   $3 maximum number of rows
select a.addition_id, a.convo_id, a.owner_did, a.device_id, a.created_at,
       case when a.claim_expires_at > clock_timestamp() then a.claimed_by end as claimed_by,
       case when a.owner_did = $1 then d.name end as name
  from members m
  join device_memberships a on a.convo_id = m.convo_id and a.epoch is null
  join members p on p.convo_id = a.convo_id and p.member_did = a.owner_did and p.left_at is null and p.in_group
  join devices d on d.owner_did = a.owner_did and d.device_id = a.device_id and d.deleted_at is null
 where m.member_did = $1 and m.left_at is null and m.in_group and (cardinality($2::text[]) = 0 or m.convo_id = any($2))
 order by a.convo_id, a.addition_id limit $3

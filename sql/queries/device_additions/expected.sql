-- device_additions/expected: returns the conversations of a person, newest first, and whether a device is in their groups. Null where that is
-- not known: the device may have created the group, or have been in it before it was registered.
-- The bound is as in convos/list.
-- $1 owner   $2 device_id or null for any device   $3 before this id or null   $4 maximum number of rows
select m.convo_id, coalesce(n.name, '') as name, c.member_count, c.updated_at, m.in_group,
       case when $2::text is null then m.in_group
            when not m.in_group then false
            when a.device_id is not null then a.epoch is not null and (m.joined_seq < c.group_seq or a.epoch >= m.joined_epoch)
            -- Each way into a group that others have begun leaves a record.
            when d.registered_at < m.joined_at and c.group_seq = 0 and c.creator_did <> $1 then false
       end as device_in_group
  from (select convo_id, joined_seq, joined_epoch, joined_at, in_group from members
         where member_did = $1 and left_at is null and convo_id < coalesce($3::text, 'Z')
         order by convo_id desc limit $4) m
  join conversations c on c.id = m.convo_id
  left join devices d on d.owner_did = $1 and d.device_id = $2
  left join device_memberships a on a.convo_id = m.convo_id and a.owner_did = $1 and a.device_id = $2
  left join conversation_metadata n on n.convo_id = m.convo_id
 order by m.convo_id desc

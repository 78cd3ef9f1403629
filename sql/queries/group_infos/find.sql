-- group_infos/find: returns the epoch of a conversation and its GroupInfo of that epoch, null if there is none, for a
-- current member; and whether the members were asked for one a short time ago. One statement, so that the epoch and the
-- GroupInfo are from one snapshot. No row: no conversation, or never a member.
-- $1 convo_id   $2 did   $3 seconds for which a request counts   $4 maximum number of bytes
select c.current_epoch, m.left_at is not null as has_left,
       case when m.left_at is null and octet_length(g.group_info) <= $4 then g.group_info end as group_info,
       coalesce(r.requested_at > clock_timestamp() - make_interval(secs => $3), false) as is_requested,
       (select cursor_key from present_incarnation) as cursor_key
  from conversations c join members m on m.convo_id = c.id
  left join group_infos g on g.convo_id = c.id and g.epoch = c.current_epoch
  left join group_info_requests r on r.convo_id = c.id
 where c.id = $1 and m.member_did = $2

-- devices/convos: returns the next conversations whose members are told of a device: of a new one where its owner is in the group, of a
-- deleted one where its owner is a member.
-- $1 owner   $2 after this id   $3 whether the device was deleted   $4 maximum number of conversations
select convo_id from members
 where member_did = $1 and left_at is null and convo_id > $2 and (in_group or $3)
 order by convo_id limit $4

-- members/count: how many active members, and which of the given ones are among them.   $1 convo_id   $2 dids
select count(*) as active, array_agg(member_did) filter (where member_did = any($2)) as present
  from members where convo_id = $1 and left_at is null

-- members/first_active: returns one of these people who is a member.
-- $1 convo_id   $2 DIDs
select member_did from members where convo_id = $1 and member_did = any($2) and left_at is null limit 1

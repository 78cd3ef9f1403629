-- members/count: counts the current members.
-- $1 convo_id
select member_count as active from conversations where id = $1

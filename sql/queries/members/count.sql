-- members/count: how many active members there are.   $1 convo_id
select count(*) as active from members where convo_id = $1 and left_at is null

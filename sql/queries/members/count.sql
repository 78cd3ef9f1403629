-- members/count: how many active members there are.   $1 convo_id
select member_count as active from conversations where id = $1

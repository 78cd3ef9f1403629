-- members/ever: whether somebody is or was in a conversation. One look into one index, whether there is such a conversation or not, so
-- that not even the time tells.   $1 convo_id   $2 did
select 1 from members where convo_id = $1 and member_did = $2

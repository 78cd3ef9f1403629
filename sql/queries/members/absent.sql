-- members/absent: returns those of a list that are not active members.
-- $1 convo_id   $2 dids
select d.did from unnest($2::text[]) d (did)
 where (select true from members m where m.convo_id = $1 and m.member_did = d.did and m.left_at is null) is not true

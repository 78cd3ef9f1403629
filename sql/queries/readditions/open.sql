-- readditions/open: returns conversations in which a person, or one of its devices, has asked to be added to the group again, and neither was
-- nor came back by itself.
-- $1 did   $2 maximum number
select r.convo_id from members m
  join readdition_requests r on r.convo_id = m.convo_id and r.member_did = $1 and r.joined_seq = m.joined_seq
 where m.member_did = $1 and m.left_at is null
   and not exists (select from external_commits e
                    where e.convo_id = r.convo_id and e.identity = r.identity and e.accepted_at > r.requested_at)
 group by r.convo_id order by r.convo_id limit $2

-- members/admin: who may remove others: the creator while it is a member, else whoever has been one for longest.   $1 convo_id
select m.member_did from members m join conversations c on c.id = m.convo_id
 where m.convo_id = $1 and m.left_at is null
 order by m.member_did <> c.creator_did, m.joined_seq, m.joined_at, m.member_did
 limit 1

-- members/list: returns the current members of conversations, in order of joining. The first of each may remove others.
-- $1 convo_ids
select m.convo_id, m.member_did, m.joined_at,
       row_number() over (partition by m.convo_id
                          order by m.member_did <> c.creator_did, m.joined_seq, m.joined_at, m.member_did) = 1 as is_admin
  from members m join conversations c on c.id = m.convo_id
 where m.convo_id = any($1) and m.left_at is null
 order by m.convo_id, m.joined_seq, m.joined_at, m.member_did

-- members/admin: returns the member that may remove others: the creator while it is a member, otherwise the member of
-- longest standing. Only then the whole roster is read.
-- $1 convo_id
select coalesce(
  (select m.member_did from conversations c join members m on m.convo_id = c.id and m.member_did = c.creator_did
    where c.id = $1 and m.left_at is null),
  (select m.member_did from members m where m.convo_id = $1 and m.left_at is null
    order by m.joined_seq, m.joined_at, m.member_did limit 1)) as member_did

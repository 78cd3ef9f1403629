-- member_counts: a conversation's member count differs from its roster (P7)
select c.id as convo_id, 'counts ' || c.member_count || ' members and has ' || count(m.member_did) as finding
  from conversations c left join members m on m.convo_id = c.id and m.left_at is null
 group by c.id
having count(m.member_did) <> c.member_count

-- positions: a member joined, left or read beyond the end of the log (P3, P7)
select m.convo_id, 'a member joined at ' || m.joined_seq || ', read to ' || m.last_read_seq || ', left at '
       || coalesce(m.left_seq::text, 'no seq') || ' of ' || c.last_seq as finding
  from members m join conversations c on c.id = m.convo_id
 where greatest(m.joined_seq, m.last_read_seq, m.left_seq) > c.last_seq

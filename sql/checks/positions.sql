-- positions: a member joined, left or read beyond the end of the log, or joined in an epoch that its group was not in (P1, P3, P7)
select m.convo_id, 'a member joined at ' || m.joined_seq || ', read to ' || m.last_read_seq || ', left at '
       || coalesce(m.left_seq::text, 'no seq') || ' of ' || c.last_seq as finding
  from members m join conversations c on c.id = m.convo_id
 where greatest(m.joined_seq, m.last_read_seq, m.left_seq) > c.last_seq
union all
select m.convo_id, 'a member joined at ' || m.joined_seq || ' in epoch ' || m.joined_epoch || ', which generation ' || g.generation
       || ' (epochs ' || g.initial_epoch || ' to ' || g.final_epoch || ') was not in'
  from members m join conversations c on c.id = m.convo_id and c.ended_at is null
  join convo_groups g on g.convo_id = m.convo_id and m.joined_seq between g.first_seq and g.last_seq
 where m.joined_epoch not between g.initial_epoch and g.final_epoch

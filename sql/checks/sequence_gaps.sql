-- sequence_gaps: the log has a gap, a duplicate, or does not end where the conversation stands (P3)
select c.id as convo_id, 'stands at seq ' || c.last_seq || ', has ' || count(m.seq) || ' entries from '
       || coalesce(min(m.seq)::text, 'none') || ' to ' || coalesce(max(m.seq)::text, 'none') as finding
  from conversations c left join messages m on m.convo_id = c.id
 group by c.id
having count(distinct m.seq) <> c.last_seq or count(m.seq) <> c.last_seq or max(m.seq) <> c.last_seq

-- sequence_gaps: the log has a gap, a duplicate or another end than the conversation's position, or lacks more than retention deletes (P3)
select c.id as convo_id, 'stands at seq ' || c.last_seq || ', begins at ' || coalesce(s.seq, 1) || ', has ' || count(m.seq)
       || ' entries from ' || coalesce(min(m.seq)::text, 'none') || ' to ' || coalesce(max(m.seq)::text, 'none') as finding
  from conversations c
  left join log_starts s on s.convo_id = c.id
  left join messages m on m.convo_id = c.id and m.seq >= coalesce(s.seq, 1)
 where c.ended_at is null
 group by c.id, s.seq
having count(distinct m.seq) <> c.last_seq - coalesce(s.seq, 1) + 1 or count(m.seq) <> c.last_seq - coalesce(s.seq, 1) + 1
    or max(m.seq) <> c.last_seq
union all
select m.convo_id, 'entry ' || m.seq || ' is an application message from before the log''s beginning at ' || s.seq
  from messages m join log_starts s on s.convo_id = m.convo_id
 where m.seq < s.seq and m.message_type = 'app'

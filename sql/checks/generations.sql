-- generations: an entry is of another generation than the conversation was in at its place, or groups do not follow each other (P1)
select e.convo_id, 'entry ' || e.seq || ' is of generation ' || e.generation || ', which the conversation was not in' as finding
  from messages e join conversations c on c.id = e.convo_id
 where c.ended_at is null
   and not exists (select from convo_groups g
                    where g.convo_id = e.convo_id and g.generation = e.generation and e.seq between g.first_seq and g.last_seq)
union all
select convo_id, 'generation ' || generation || ' begins at seq ' || first_seq || ' after generation ' || coalesce(previous, 0)
       || ' had ended at seq ' || coalesce(ended, -1)
  from (select convo_id, generation, first_seq, lag(generation) over w as previous, lag(last_seq) over w as ended
          from convo_groups window w as (partition by convo_id order by generation)) g
 where (generation <> coalesce(previous, 0) + 1 or first_seq <> coalesce(ended + 1, 0))
   and not exists (select from conversations c where c.id = g.convo_id and c.ended_at is not null)

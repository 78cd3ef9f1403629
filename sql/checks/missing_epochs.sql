-- missing_epochs: an epoch of a group was reached without a commit, or a commit lies beyond the group's last epoch (P1)
select g.convo_id, 'generation ' || g.generation || ' reached epoch ' || g.final_epoch || ', started at ' || g.initial_epoch || ', has '
       || count(m.epoch) || ' commits up to epoch ' || coalesce(max(m.epoch)::text, 'none') as finding
  from convo_groups g
  join conversations c on c.id = g.convo_id and c.ended_at is null
  left join commits m on m.convo_id = g.convo_id and m.generation = g.generation
 group by g.convo_id, g.generation, g.final_epoch, g.initial_epoch
having count(distinct m.epoch) <> g.final_epoch - g.initial_epoch
    or min(m.epoch) <= g.initial_epoch or max(m.epoch) <> g.final_epoch

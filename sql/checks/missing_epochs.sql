-- missing_epochs: an epoch was reached without a commit, or a commit lies beyond the current epoch (P1)
select c.id as convo_id, 'stands at epoch ' || c.current_epoch || ', started at ' || c.initial_epoch || ', has '
       || count(m.epoch) || ' commits up to epoch ' || coalesce(max(m.epoch)::text, 'none') as finding
  from conversations c left join commits m on m.convo_id = c.id
 where c.ended_at is null
 group by c.id
having count(distinct m.epoch) <> c.current_epoch - c.initial_epoch
    or min(m.epoch) <= c.initial_epoch or max(m.epoch) <> c.current_epoch

-- group_infos: a GroupInfo is of an epoch that its conversation was never in (P14)
select g.convo_id, 'its GroupInfo is of epoch ' || g.epoch || ', and it is in epoch ' || coalesce(c.current_epoch::text, '(none)') as finding
  from group_infos g left join conversations c on c.id = g.convo_id
 where (g.epoch between c.initial_epoch and c.current_epoch) is not true

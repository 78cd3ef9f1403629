-- message_epochs: a message or proposal has an epoch that did not exist when it was accepted, or a proposal one that was over (P1)
select a.convo_id, 'entry ' || a.seq || ' was made in epoch ' || a.epoch || ', which did not exist yet' as finding
  from messages a join conversations c on c.id = a.convo_id
 where c.ended_at is null and a.message_type in ('app', 'proposal') and a.epoch > (select g.initial_epoch from convo_groups g where g.convo_id = a.convo_id and g.generation = a.generation)
   and not exists (select from commits m where m.convo_id = a.convo_id and m.generation = a.generation and m.epoch = a.epoch and m.seq < a.seq)
union all
select p.convo_id, 'proposal ' || p.seq || ' was made in epoch ' || p.epoch || ', which entry ' || m.seq || ' had ended'
  from messages p join commits m on m.convo_id = p.convo_id and m.generation = p.generation and m.epoch = p.epoch + 1
 where p.message_type = 'proposal' and m.seq < p.seq

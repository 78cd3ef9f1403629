-- message_epochs: an application message has an epoch that did not exist when it was accepted (P1)
select a.convo_id, 'entry ' || a.seq || ' was made in epoch ' || a.epoch || ', which did not exist yet' as finding
  from messages a join conversations c on c.id = a.convo_id
 where c.ended_at is null and a.message_type = 'app' and a.epoch > c.initial_epoch
   and not exists (select from commits m where m.convo_id = a.convo_id and m.epoch = a.epoch and m.seq < a.seq)

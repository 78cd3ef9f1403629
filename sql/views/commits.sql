-- commits: the commit that created each epoch, whether or not its bytes are stored.
create view commits as
select convo_id, generation, epoch, seq, sender_did, body_hash, true as kept from messages where message_type = 'commit'
union all
select r.convo_id, coalesce((select g.generation from past_groups g
                              where g.convo_id = r.convo_id and r.seq between g.first_seq and g.last_seq),
                            (select c.generation from conversations c where c.id = r.convo_id), 1),
       r.epoch, r.seq, r.sender_did, r.body_hash, false
  from retired_commits r;
comment on view commits is 'How each epoch was reached, whether or not the bytes of the commit are kept.';

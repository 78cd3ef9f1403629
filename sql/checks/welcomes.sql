-- welcomes: a Welcome has no recipient, leads to an epoch that no commit created, or is stored without need (P2)
select w.convo_id, 'Welcome ' || w.id || ' waits for a DID that is not a member' as finding
  from welcome_messages w
 where w.state = 'available'
   and not exists (select from members m where m.convo_id = w.convo_id and m.member_did = w.recipient_did and m.left_at is null)
union all
select w.convo_id, 'Welcome ' || w.id || ' leads to epoch ' || w.epoch || ', which no commit created'
  from welcome_messages w join conversations c on c.id = w.convo_id
 where c.ended_at is null
   and not exists (select from convo_groups g
                    where g.convo_id = w.convo_id and g.generation = w.generation and g.initial_epoch = w.epoch)
   and not exists (select from commits m where m.convo_id = w.convo_id and m.generation = w.generation and m.epoch = w.epoch)
union all
select null, 'no conversation has anybody who waits for the bytes of Welcome ' || b.id
  from welcomes b
 where not exists (select from welcome_messages w where w.welcome_id = b.id)

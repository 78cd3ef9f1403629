-- sweeps/part: removes some members of a conversation that is abandoned or that an operator deletes, those that were never active first. Each is
-- told as if it had left, and its waiting Welcomes are withdrawn. No member: the conversation is not to end, or has no
-- members left.
-- needs: the conversation, exclusively.
-- $1 convo_id   $2 nothing happened since, or null to remove the members whatever happens   $3 maximum number of members
with convo as materialized (
  select c.id, c.generation, c.current_epoch, c.last_seq from conversations c
   where c.id = $1
     and ($2::timestamptz is null or c.updated_at < $2
     and (select count(*) from (select from members m
                                 where m.convo_id = c.id and m.left_at is null
                                   and (m.was_there or m.last_read_at is not null or m.member_did = c.creator_did
                                        or m.member_did = (select e.sender_did from messages e
                                                            where e.convo_id = c.id and e.seq = c.last_seq))
                                 limit 2) there) < 2)
), leaving as materialized (
  select m.member_did, m.last_read_at from convo c join members m on m.convo_id = c.id
   where m.left_at is null
   order by m.was_there or m.last_read_at is not null, m.member_did limit $3
), parted as (
  update members m set left_at = now(), left_by = m.member_did, left_epoch = c.current_epoch, left_seq = c.last_seq
    from convo c, leaving l
   where m.convo_id = c.id and m.member_did = l.member_did
     -- A member that reads meanwhile is active.
     and m.left_at is null and ($2 is null or m.last_read_at is not distinct from l.last_read_at)
  returning m.member_did, c.generation, m.left_epoch, m.left_seq
), told as (
  insert into event_stream (convo_id, recipient_did, event_type, payload)
  select $1, member_did, 'removed',
         jsonb_build_object('did', member_did, 'actor', member_did, 'generation', generation, 'epoch', left_epoch, 'seq', left_seq)
    from parted
), withdrawn as (
  delete from welcome_messages w using leaving l
   where w.convo_id = $1 and w.recipient_did = l.member_did and w.state = 'available'
  returning w.welcome_id
)
select (select count(*) from parted) as parted, array(select distinct welcome_id from withdrawn) as withdrawn

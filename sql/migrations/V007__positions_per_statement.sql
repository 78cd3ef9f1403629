-- Dense order, checked once per statement instead of once per row: a batch of messages pays for one query, not for each of
-- its messages. What is checked stays the same.

drop trigger messages_position_check on messages;
drop function follow_predecessor();

create function follow_predecessors() returns trigger language plpgsql as $$
declare
  wrong record;
begin
  -- Questions for one value each, which PostgreSQL can only answer row by row. With exists it may read the whole log instead: that
  -- looks cheap while the log is empty, and the plan is kept.
  select e.convo_id, e.seq, e.epoch into wrong from entries e
   where (select e.seq <= c.last_seq
             and (e.message_type = 'app' or e.epoch = c.current_epoch)
             and (e.seq = 1 or (select true from messages m where m.convo_id = e.convo_id and m.seq = e.seq - 1))
            from conversations c where c.id = e.convo_id) is not true
   limit 1;
  if found then
    raise exception 'entry % of conversation % (epoch %) does not follow its predecessor, or is not where the conversation stands',
      wrong.seq, wrong.convo_id, wrong.epoch
      using errcode = 'check_violation', constraint = 'messages_position_check';
  end if;
  return null;
end $$;

create trigger messages_position_check after insert on messages referencing new table as entries
  for each statement execute function follow_predecessors();

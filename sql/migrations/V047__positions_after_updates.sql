-- The checks of a conversation's position run after the update of its row. PostgreSQL locks a row first if anything may run before its
-- update, which costs each message and each commit a write-ahead log record. And it prepares the condition of each trigger anew for each
-- statement, so a message, which names last_seq alone, has a condition of its own.
drop trigger conversations_position_check on conversations;
create trigger conversations_position_check after update of current_epoch on conversations
  for each row when (
    new.generation = old.generation
    and (new.current_epoch not in (old.current_epoch, old.current_epoch + 1)
         or (new.current_epoch > old.current_epoch and new.last_seq = old.last_seq)))
  execute function refuse_position();
create trigger conversations_seq_check after update of last_seq on conversations
  for each row when (new.last_seq < old.last_seq)
  execute function refuse_position();

drop trigger conversations_group_check on conversations;
create trigger conversations_group_check after update of generation, group_id, initial_epoch, group_seq on conversations
  for each row when (
    case when new.generation = old.generation
         then (new.group_id, new.initial_epoch, new.group_seq) is distinct from (old.group_id, old.initial_epoch, old.group_seq)
         else new.generation <> old.generation + 1
              or new.last_seq <> old.last_seq + 1 or new.group_seq <> new.last_seq
              or new.current_epoch <> new.initial_epoch or new.group_id = old.group_id
    end)
  execute function refuse_position();

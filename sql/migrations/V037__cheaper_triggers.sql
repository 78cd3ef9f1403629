-- Triggers that cost a commit or a message nothing where they have nothing to do. PostgreSQL prepares the condition of each trigger anew for
-- each statement, and starts a statement's trigger even if there are no rows.

-- The group of a conversation changes only in statements that name its columns, so only those pay for that check.
drop trigger conversations_position_check on conversations;
create trigger conversations_position_check before update of current_epoch, last_seq on conversations
  for each row when (
    new.last_seq < old.last_seq
    or (new.generation = old.generation
        and (new.current_epoch not in (old.current_epoch, old.current_epoch + 1)
             or (new.current_epoch > old.current_epoch and new.last_seq = old.last_seq))))
  execute function refuse_position();
create trigger conversations_group_check before update of generation, group_id, initial_epoch, group_seq on conversations
  for each row when (
    case when new.generation = old.generation
         then (new.group_id, new.initial_epoch, new.group_seq) is distinct from (old.group_id, old.initial_epoch, old.group_seq)
         else new.generation <> old.generation + 1
              or new.last_seq <> old.last_seq + 1 or new.group_seq <> new.last_seq
              or new.current_epoch <> new.initial_epoch or new.group_id = old.group_id
    end)
  execute function refuse_position();

-- A Welcome for a device's key package brings the device in, as before. Most commits have no Welcome, and then no trigger runs.
drop trigger welcome_messages_devices on welcome_messages;
create or replace function note_welcomed_devices() returns trigger language plpgsql as $$
begin
  insert into device_memberships (convo_id, owner_did, device_id, epoch)
  select new.convo_id, new.recipient_did, k.device_id, new.epoch from key_packages k
   where k.hash = new.key_package_hash and k.owner_did = new.recipient_did and k.device_id is not null
  on conflict (convo_id, owner_did, device_id) do update set epoch = excluded.epoch;
  return null;
end $$;
create trigger welcome_messages_devices after insert on welcome_messages
  for each row when (new.key_package_hash is not null) execute function note_welcomed_devices();

-- One statement for all conversations of a batch. The transaction has updated or inserted their rows before, so it waits for none here, in
-- whatever order. Without sequential scans PostgreSQL looks each one up, whatever the size of the table was when it made the plan.
create or replace function count_joined() returns trigger language plpgsql set enable_seqscan = off as $$
begin
  update conversations c set member_count = c.member_count + j.n, roster_version = c.roster_version + 1
    from (select convo_id, count(*) as n from joined where left_at is null group by convo_id) j
   where c.id = j.convo_id;
  return null;
end $$;

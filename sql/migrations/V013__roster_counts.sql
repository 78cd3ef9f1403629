-- The columns of V012 follow the roster, whoever changes it: triggers do it, so that replicas of an earlier build keep them right too.
-- Whoever changes a roster holds the conversation's row already, so this waits for nobody, and the update stays on its page (HOT).

-- In the order in which writers take them, so that nobody waits in a circle. Reads go on; writes wait until the columns are filled,
-- which takes one pass over members.
lock table conversations in share row exclusive mode;
lock table members in share row exclusive mode;

-- One conversation at a time, by its key, whatever the planner thinks of the tables when it plans this.
create function count_joined() returns trigger language plpgsql as $$
declare
  r record;
begin
  for r in select convo_id, count(*) as n from joined where left_at is null group by convo_id order by convo_id loop
    update conversations set member_count = member_count + r.n, roster_version = roster_version + 1 where id = r.convo_id;
  end loop;
  return null;
end $$;

create function count_gone() returns trigger language plpgsql as $$
declare
  r record;
begin
  for r in select convo_id, count(*) as n from gone where left_at is null group by convo_id order by convo_id loop
    update conversations set member_count = member_count - r.n, roster_version = roster_version + 1 where id = r.convo_id;
  end loop;
  return null;
end $$;

create function count_moved() returns trigger language plpgsql as $$
begin
  update conversations set member_count = member_count + case when new.left_at is null then 1 else -1 end,
                           roster_version = roster_version + 1
   where id = new.convo_id;
  return null;
end $$;

create trigger members_joined after insert on members referencing new table as joined
  for each statement execute function count_joined();
create trigger members_gone after delete on members referencing old table as gone
  for each statement execute function count_gone();
-- By row, because a trigger on one column has no transition table, and read positions, which move all the time, must not call it.
create trigger members_moved after update of left_at on members
  for each row when ((old.left_at is null) <> (new.left_at is null)) execute function count_moved();

update conversations c set member_count = m.active
  from (select convo_id, count(*) as active from members where left_at is null group by convo_id) m
 where m.convo_id = c.id;

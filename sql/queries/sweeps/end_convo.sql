-- sweeps/end_convo: ends a conversation without members. Its group id stays taken.
-- needs: the conversation, exclusively.
-- $1 convo_id
with ended as (
  update conversations set ended_at = clock_timestamp(), updated_at = now()
   where id = $1 and member_count = 0 and ended_at is null
  returning group_id
), freed as (
  delete from wedged_convos w using conversations c where w.convo_id = $1 and c.id = $1 and c.member_count = 0
), kept as (
  insert into ended_groups (group_id_hash) select sha256(convert_to(group_id, 'UTF8')) from ended
)
select count(*) as ended from ended

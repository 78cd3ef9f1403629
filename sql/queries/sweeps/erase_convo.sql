-- sweeps/erase_convo: deletes the last rows of a conversation that has ended.
-- needs: the conversation, exclusively.
-- $1 convo_id
with metadata as (
  delete from conversation_metadata where convo_id = $1 returning 1
), log_start as (
  delete from log_starts where convo_id = $1 returning 1
), group_info as (
  delete from group_infos where convo_id = $1 returning 1
), requests as (
  delete from group_info_requests where convo_id = $1 returning 1
), groups as (
  delete from past_groups where convo_id = $1 returning 1
), convo as (
  delete from conversations where id = $1 and ended_at is not null returning 1
)
select (select count(*) from metadata) + (select count(*) from log_start) + (select count(*) from group_info)
       + (select count(*) from requests) + (select count(*) from groups) + (select count(*) from convo) as deleted

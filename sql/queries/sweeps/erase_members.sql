-- sweeps/erase_members: deletes some former members of a conversation that has ended, once no row refers to them.
-- needs: the conversation, exclusively.
-- $1 convo_id   $2 maximum number of rows
with gone as (
  delete from members where convo_id = $1
     and member_did in (select member_did from members where convo_id = $1 order by member_did limit $2)
  returning 1
)
select count(*) as deleted from gone

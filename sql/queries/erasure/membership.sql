-- erasure/membership: deletes a membership that has ended, if the person was never in the MLS group and has no entry in the log. Otherwise only its
-- positions go: the others can commit the removal only of somebody who was a member, and each entry is by one. Where the conversation has ended
-- the membership stays as long as that, so that the person's conversations to empty are found. If the person has created the conversation,
-- the member that may remove others now (members/admin) is recorded as its creator, so that the right stays there; nobody, if there is
-- no member. Returns the number of deleted memberships, and whether the conversation has ended.
-- needs: the conversation, exclusively.
-- $1 convo_id   $2 did
with gone as (
  delete from members m
   where m.convo_id = $1 and m.member_did = $2 and m.left_at is not null and not m.in_group
     and (select c.ended_at is null from conversations c where c.id = $1)
     and not exists (select from messages e where e.convo_id = $1 and e.sender_did = $2)
     and not exists (select from retired_commits r where r.convo_id = $1 and r.sender_did = $2)
  returning 1
), cleared as (
  update members m set last_read_seq = joined_seq, last_read_at = null, was_there = false
   where m.convo_id = $1 and m.member_did = $2 and m.left_at is not null and not exists (select from gone)
), passed_on as (
  update conversations
     set creator_did = coalesce((select m.member_did from members m where m.convo_id = $1 and m.left_at is null and m.member_did <> $2
                                  order by m.joined_seq, m.joined_at, m.member_did limit 1), '')
   where id = $1 and creator_did = $2
)
select (select count(*) from gone) as deleted, ended_at is not null as over from conversations where id = $1

-- commit_reports/settle: draws the conclusions from a report that was just stored, and tells the members once.
-- A fork: its commit is not the accepted one, or another member's authenticator of the epoch differs. As long as no fork was told, all
-- other reports of the epoch agree, so one of them stands for all.
-- Wedged: a quorum of the active members who are in the group cannot apply commits. Of each its report of the latest epoch counts, unless
-- it has joined or had a commit of its own accepted since. Fewer than a quorum end that state.
-- needs: the conversation, exclusively, and its row locked.
-- $1 convo_id   $2 generation   $3 epoch of the report   $4 member   $5 the conversation's epoch   $6 oldest epoch whose reports count
-- $7 quorum as a percentage of the members   $8 smallest quorum
with present as materialized (
  select group_seq from conversations where id = $1
), forked as (
  update commit_reports r set fork_told = true
   where r.convo_id = $1 and r.generation = $2 and r.epoch = $3 and r.member_did = $4
     and not exists (select from commit_reports t
                      where t.convo_id = $1 and t.generation = $2 and t.epoch = $3 and t.fork_told)
     and (r.commit_hash <> coalesce((select c.body_hash from messages c
                                      where c.convo_id = $1 and c.generation = $2 and c.epoch = $3 and c.message_type = 'commit'),
                                    (select c.body_hash from retired_commits c, present p
                                      where c.convo_id = $1 and c.epoch = $3 and c.seq > p.group_seq))
          or r.epoch_authenticator <> (select o.epoch_authenticator from commit_reports o
                                        where o.convo_id = $1 and o.generation = $2 and o.epoch = $3 and o.member_did <> $4
                                          and o.epoch_authenticator is not null limit 1))
  returning r.epoch
), committed as materialized (
  select sender_did, max(epoch) as epoch from messages
   where convo_id = $1 and message_type = 'commit' and epoch between $6 and $5 and generation = $2
   group by sender_did
), tally as materialized (
  select count(*) as unable
    from commit_reports r
    join members m on m.convo_id = r.convo_id and m.member_did = r.member_did
    left join committed c on c.sender_did = r.member_did
    cross join present p
   where r.convo_id = $1 and r.generation = $2 and r.is_newest and not r.applied and r.epoch >= $6
     and m.left_at is null and m.in_group and (m.joined_seq < p.group_seq or r.epoch > m.joined_epoch) and (c.epoch > r.epoch) is not true
), settled as materialized (
  select t.unable, q.quorum, t.unable >= q.quorum as wedged,
         exists (select from wedged_convos w where w.convo_id = $1) as was_wedged
    from tally t
   cross join (select greatest($8, ceil(count(*) * $7 / 100.0)::bigint) as quorum from members
                where convo_id = $1 and left_at is null and in_group) q
), began as (
  insert into wedged_convos (convo_id, generation, epoch) select $1, $2, $5 from settled where wedged and not was_wedged
), ended as (
  delete from wedged_convos w using settled s where w.convo_id = $1 and not s.wedged
), told as (
  insert into event_stream (convo_id, event_type, payload)
  select $1, 'fork', jsonb_build_object('generation', $2::bigint, 'epoch', f.epoch) from forked f
  union all
  select $1, 'wedged', jsonb_build_object('generation', $2::bigint, 'epoch', $5::bigint, 'state',
                                          case when s.wedged then 'wedged' else 'active' end)
    from settled s where s.wedged <> s.was_wedged
)
select unable, quorum, wedged from settled

-- admin/convo: returns what is stored of a conversation, without content, its members up to a number, and the number of active ones. The size of
-- the log is read by admin/log_size.
-- $1 convo_id   $2 maximum number of members
select c.member_count,
       jsonb_build_object(
         'id', c.id, 'groupId', c.group_id, 'generation', c.generation, 'cipherSuite', c.cipher_suite, 'epoch', c.current_epoch,
         'seq', c.last_seq, 'creator', c.creator_did, 'createdAt', c.created_at, 'updatedAt', c.updated_at, 'endedAt', c.ended_at,
         'logStart', (select s.seq from log_starts s where s.convo_id = c.id),
         'wedgedSince', (select w.since from wedged_convos w where w.convo_id = c.id),
         'groupInfoEpoch', (select g.epoch from group_infos g where g.convo_id = c.id),
         'members', (select coalesce(jsonb_agg(to_jsonb(m)), '[]') from (
                       select member_did as did, joined_at as "joinedAt", joined_seq as "joinedSeq", last_read_seq as "readSeq",
                              left_at as "leftAt", left_by as "leftBy", left_seq as "leftSeq", in_group as "inGroup"
                         from members where convo_id = c.id order by left_at is not null, joined_seq, joined_at, member_did limit $2) m))::text as found,
       jsonb_build_object(
         'members', c.member_count,
         'formerMembers', (select count(*) from members m where m.convo_id = c.id and m.left_at is not null),
         'pastGroups', (select count(*) from past_groups g where g.convo_id = c.id),
         'retiredCommits', (select count(*) from retired_commits r where r.convo_id = c.id),
         'blobs', coalesce((select b.blobs from convo_blobs b where b.convo_id = c.id), 0),
         'blobBytes', coalesce((select b.bytes from convo_blobs b where b.convo_id = c.id), 0),
         'envelopes', (select count(*) from envelopes e where e.convo_id = c.id),
         'deadEnvelopes', (select count(*) from envelopes e where e.convo_id = c.id and e.state = 'dead'),
         'reports', (select count(*) from commit_reports r where r.convo_id = c.id),
         'readditions', (select count(*) from readdition_requests r where r.convo_id = c.id),
         'devices', (select count(*) from device_memberships d where d.convo_id = c.id and d.epoch is not null),
         'waitingDevices', (select count(*) from device_memberships d where d.convo_id = c.id and d.epoch is null))::text as counts
  from conversations c
 where c.id = $1

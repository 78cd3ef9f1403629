-- admin/person_convos: returns the next conversations that a person is or was in, in order, with what is stored of it there beside its entries. The
-- counts are what an erasure changes.
-- $1 did   $2 after this conversation   $3 maximum number of conversations
select m.convo_id, m.left_at is null as active, m.left_at is null and c.member_count = 1 as is_last, c.ended_at is not null as over,
       jsonb_build_object(
         'convoId', m.convo_id, 'isCreator', c.creator_did = $1, 'members', c.member_count, 'epoch', c.current_epoch, 'seq', c.last_seq,
         'joinedAt', m.joined_at, 'joinedSeq', m.joined_seq, 'readSeq', m.last_read_seq, 'readAt', m.last_read_at, 'leftAt', m.left_at,
         'leftBy', m.left_by, 'leftSeq', m.left_seq, 'inGroup', m.in_group)::text as found,
       jsonb_build_object(
         'welcomes', (select count(*) from welcome_messages w where w.recipient_did = $1 and w.convo_id = m.convo_id),
         'cursors', (select count(*) from cursors u where u.user_did = $1 and u.convo_id = m.convo_id),
         'envelopes', (select count(*) from envelopes e where e.convo_id = m.convo_id and e.recipient_did = $1),
         'reports', (select count(*) from commit_reports r where r.convo_id = m.convo_id and r.member_did = $1),
         'externalCommits', (select count(*) from external_commits x where x.convo_id = m.convo_id and split_part(x.identity, '#', 1) = $1),
         'readditions', (select count(*) from readdition_requests r where r.convo_id = m.convo_id and r.member_did = $1),
         'devicesInGroups', (select count(*) from device_memberships d where d.owner_did = $1 and d.convo_id = m.convo_id),
         'claims', (select count(*) from device_memberships d where d.convo_id = m.convo_id and d.claimed_by = $1 and d.owner_did <> $1),
         'memberships', (not m.in_group and c.ended_at is null and (m.left_at is not null or c.member_count > 1)
                         and not exists (select from messages e where e.convo_id = m.convo_id and e.sender_did = $1)
                         and not exists (select from retired_commits r where r.convo_id = m.convo_id and r.sender_did = $1))::int,
         'removals', (select count(*) from members o where o.convo_id = m.convo_id and o.left_by = $1 and o.member_did <> $1),
         'groupInfos', (select count(*) from group_infos g where g.convo_id = m.convo_id and g.signer_did = $1))::text as counts
  from (select * from (
          (select * from members where member_did = $1 and left_at is null and convo_id > $2 order by convo_id limit $3)
          union all
          (select * from members where member_did = $1 and left_at is not null and convo_id > $2 order by convo_id limit $3)) any_of_them
         order by convo_id limit $3) m
  join conversations c on c.id = m.convo_id
 order by m.convo_id

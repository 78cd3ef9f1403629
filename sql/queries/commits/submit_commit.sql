-- commits/submit_commit: submits commits to one conversation or to many, each with the changes of the roster that it declares, and judges
-- each independently. Without a commit it adds people to the roster alone. It is the only statement that accepts commits. Where one is
-- accepted, all of it is done: the step to the next epoch, the log entry, the roster, the events, the Welcome, the key packages, the GroupInfo
-- and the idempotency record; otherwise nothing is. Returns one row for each: the conversation's position afterwards, or `refusal` with the
-- position as it is.
-- Refusals, the first that applies:
--   not_held           the conversation is not in catbird.held (tx/take, tx/wait, tx/lock, tx/name)
--   other_generation   the conversation is in another generation than the commit
--   other_epoch        the conversation is in another epoch than the commit, or does not exist
--   not_member         the sender is not an active member
--   not_authorized     another active member is to be removed, and the sender is not the admin (members/admin)
--   target_not_member  `about` is to be removed and was never a member
--   uninvited          a key package belongs to `about`, who is neither added nor in the group
--   already_member     `about` is to be added, is an active member in the group, and is not removed by the same commit
--   too_many_members   the conversation would have more than $23 members
--   last_member        the conversation would have no member
--   key_package        a key package is unknown, used, issued to another caller, or of another cipher suite
--   key_known          the idempotency key was used
--   welcome_waits      a Welcome waits for a person that is added or removed, or for a named key package
--   moved              another replica wrote the conversation after this statement's snapshot
-- Needs the conversations exclusively. No conversation, key package or idempotency key twice. One element for each item:
-- $1 convo_ids   $2 ids   $3 senders   $4 methods, for the idempotency record   $5 epochs that the commits were made in, null without a
-- commit   $6 commits or null   $7 SHA-256 of those   $8 idempotency keys or null   $9 fingerprints   $10 Welcome ids or null
-- $11 Welcomes or null   $25 GroupInfos of the epochs that the commits create, or null.
-- Lists, each with the number of its item, from 1 on: people, none of them twice: $12 n   $13 who   $14 whether it is added   $15 whether
-- it is removed; owners of key packages may be neither. Without a commit no person is removed.
-- $16 n   $17 ids   $18 recipients   $19 key package hashes or null of a Welcome's lines.
-- $20 n   $21 hashes   $22 owners of the key packages to use.   $23 most members of a conversation   $24 now.
-- $26 generations of the commits, null without a commit
with items as (
  select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bytea[], $7::bytea[], $8::text[], $9::bytea[],
                       $10::text[], $11::bytea[], $25::bytea[], $26::bigint[])
    with ordinality i (convo_id, id, sender_did, method, epoch, ciphertext, body_hash, key, fingerprint, welcome_id, welcome, group_info,
                       of_generation, place)
), placed as materialized (
  select i.*, c.version, c.member_count, c.creator_did, c.cipher_suite, c.generation, c.current_epoch, c.last_seq,
         case when i.convo_id = any ((select nullif(current_setting('catbird.held', true), '')::text[])::text[]) is not true
                then 'not_held'
              when c.generation <> i.of_generation then 'other_generation'
              when (c.current_epoch = coalesce(i.epoch, c.current_epoch)) is not true then 'other_epoch'
         end as misplaced
    -- With `offset 0` PostgreSQL can only look each one up. It may choose to read the whole table for a plain join.
    from items i left join lateral (select xmin as version, member_count, creator_did, cipher_suite, generation, current_epoch, last_seq
                                      from conversations where id = i.convo_id offset 0) c on true
), able as materialized (
  -- Nothing is looked up or locked for the others.
  select place, convo_id, sender_did, epoch, cipher_suite from placed where misplaced is null
), named as materialized (
  select * from unnest($20::bigint[], $21::bytea[], $22::text[]) n (place, hash, owner_did)
), people as materialized (
  -- `active` is null for a person that was never a member. `fault` is the number of a refusal. A left join, so that PostgreSQL expects many
  -- people and does not loop over them below.
  select p.*, i.convo_id, m.active,
         case when p.removed and m.active and p.did <> i.sender_did then 0
              when p.removed and m.active is null then 1
              when not p.added and not p.removed and (m.active and m.in_group) is not true then 2
              when p.added and m.active and not p.removed and (m.in_group or i.epoch is null) then 3
         end as fault
    from unnest($12::bigint[], $13::text[], $14::boolean[], $15::boolean[]) with ordinality p (place, did, added, removed, nth)
    left join able i on i.place = p.place
    left join lateral (select left_at is null as active, in_group from members
                        where convo_id = i.convo_id and member_did = p.did offset 0) m on true
), crowds as materialized (
  -- Subqueries for one value each, here and below, which PostgreSQL can only run row by row. For a join or `exists` it may choose to read
  -- a whole table, if it made the plan while that was small. Few aggregates, because a small commit pays for the start of each.
  select p.place, min(p.nth) filter (where p.added) as first_added,
         sum(case when p.added then (p.active is not true)::int else - (p.removed and p.active is true)::int end) as growth,
         -- A membership that goes on may begin again at this commit.
         bool_or(p.added or p.removed and p.active) as changes,
         bool_or(p.fault = 0) as needs_admin,
         min(array[p.fault, p.nth]) filter (where p.fault > 0) as fault,
         bool_or(coalesce((select true from welcome_messages w
                            where w.convo_id = p.convo_id and w.recipient_did = p.did and w.state = 'available'
                              and (p.added or p.removed
                                   or w.key_package_hash in (select n.hash from named n where n.place = p.place and n.owner_did = p.did))
                            limit 1), false)) as waiting
    from people p
   group by p.place
), one_time as materialized (
  -- All writers lock packages in this order. One that does not waits, or makes this statement wait, until lock_timeout at most.
  select n.place, k.hash, i.convo_id
    from named n join able i on i.place = n.place join key_packages k on k.hash = n.hash and k.owner_did = n.owner_did
   where k.consumed_at is null and (k.claimed_by is null or k.claimed_by = i.sender_did) and not k.last_resort
     and k.cipher_suite = i.cipher_suite
   order by k.hash for update of k
), last_resort as materialized (
  -- The lock makes the deletion of a device wait.
  select n.place from named n join able i on i.place = n.place join key_packages k on k.hash = n.hash and k.owner_did = n.owner_did
   where k.last_resort and k.consumed_at is null and k.cipher_suite = i.cipher_suite
   for share of k
), judged as materialized (
  select i.*, p.first_added, p.growth, p.changes, p.fault,
         case when i.misplaced is not null then i.misplaced
              when (select true from members m
                     where m.convo_id = i.convo_id and m.member_did = i.sender_did and m.left_at is null) is not true then 'not_member'
              -- The roster is read only where the sender is not the creator.
              when p.needs_admin and i.sender_did <> i.creator_did
                and i.sender_did <> (select m.member_did from members m where m.convo_id = i.convo_id and m.left_at is null
                                      order by m.member_did <> i.creator_did, m.joined_seq, m.joined_at, m.member_did limit 1)
                then 'not_authorized'
              when p.fault is not null then (array['target_not_member', 'uninvited', 'already_member'])[p.fault[1]]
              when i.member_count + p.growth > $23 then 'too_many_members'
              when i.member_count + p.growth < 1 then 'last_member'
              when (select count(*) from named n where n.place = i.place)
                <> (select count(*) from one_time k where k.place = i.place) + (select count(*) from last_resort k where k.place = i.place)
                then 'key_package'
              when (select true from idempotency_records r
                     where r.caller_did = i.sender_did and r.method = i.method and r.key = i.key) then 'key_known'
              when p.waiting then 'welcome_waits'
         end as refusal
    from placed i left join crowds p on p.place = i.place
), moved as (
  -- Updates only the row version that the snapshot saw: a replica that takes no lock may have written meanwhile, if only the roster.
  update conversations c
     set current_epoch = c.current_epoch + (f.ciphertext is not null)::int, last_seq = c.last_seq + (f.ciphertext is not null)::int,
         member_count = c.member_count + coalesce(f.growth, 0), roster_version = c.roster_version + coalesce(f.changes, false)::int,
         updated_at = now()
    from judged f
   where f.refusal is null and c.id = f.convo_id and c.current_epoch = f.current_epoch and c.xmin = f.version
  returning c.id, c.current_epoch, c.last_seq, c.roster_version
), won as materialized (
  select f.*, m.current_epoch as new_epoch, m.last_seq as seq, m.roster_version from judged f join moved m on m.id = f.convo_id where f.refusal is null
), appended as (
  insert into messages (convo_id, seq, id, sender_did, message_type, generation, epoch, ciphertext, body_hash)
  select convo_id, seq, id, sender_did, 'commit', generation, epoch + 1, ciphertext, body_hash from won where ciphertext is not null
), roster as (
  -- Memberships that begin, and those that end, which all have a row: an upsert finds each by its key. The version says that they are counted.
  insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq, in_group, roster_version,
                       left_at, left_by, left_epoch, left_seq)
  select w.convo_id, p.did, w.seq, w.new_epoch, w.seq, w.ciphertext is not null, w.roster_version,
         case when not p.added then now() end, case when not p.added then w.sender_did end,
         case when not p.added then w.new_epoch end, case when not p.added then w.seq end
    from won w join people p on p.place = w.place
   where p.added or p.removed and p.active
  on conflict (convo_id, member_did) do update
     set joined_at = case when excluded.left_at is null then now() else members.joined_at end,
         joined_seq = case when excluded.left_at is null then excluded.joined_seq else members.joined_seq end,
         joined_epoch = case when excluded.left_at is null then excluded.joined_epoch else members.joined_epoch end,
         last_read_seq = case when excluded.left_at is null then excluded.last_read_seq else members.last_read_seq end,
         last_read_at = case when excluded.left_at is null then null else members.last_read_at end,
         in_group = case when excluded.left_at is null then excluded.in_group else members.in_group end,
         roster_version = excluded.roster_version,
         left_at = excluded.left_at, left_by = excluded.left_by, left_epoch = excluded.left_epoch, left_seq = excluded.left_seq
), announced as (
  -- The end of a membership is told before its new beginning, and as events/left does.
  insert into event_stream (convo_id, recipient_did, event_type, payload)
  select w.convo_id, case told.event when 'removed' then p.did end, told.event,
         case when told.event <> 'joined'
                then jsonb_build_object('did', p.did, 'actor', w.sender_did, 'generation', w.generation, 'epoch', w.new_epoch, 'seq', w.seq)
              else jsonb_build_object('dids', (select jsonb_agg(a.did) from people a where a.place = w.place and a.added),
                                      'actor', w.sender_did, 'generation', w.generation, 'epoch', w.new_epoch, 'seq', w.seq,
                                      'welcome', w.welcome_id is not null) end
    from won w join people p on p.place = w.place
   cross join (values ('left'), ('removed'), ('joined')) told (event)
   where case told.event when 'joined' then p.nth = w.first_added else p.removed and p.active end
   order by told.event = 'joined', p.nth
), welcomed as (
  insert into welcomes (id, welcome) select welcome_id, welcome from won where welcome_id is not null
), addressed as (
  insert into welcome_messages (id, convo_id, recipient_did, key_package_hash, welcome_id, generation, epoch)
  select a.id, w.convo_id, a.did, a.hash, w.welcome_id, w.generation, w.new_epoch
    from won w join unnest($16::bigint[], $17::text[], $18::text[], $19::bytea[]) a (place, id, did, hash) on a.place = w.place
), used as (
  update key_packages k set consumed_at = $24, consumed_convo = p.convo_id
    from one_time p
   where k.hash = p.hash and p.place in (select place from won)
), informed as (
  -- Where a commit brings none, the one of an older epoch stays, and is not served.
  insert into group_infos as g (convo_id, epoch, group_info, signer_did)
  select convo_id, new_epoch, group_info, sender_did from won where group_info is not null
  on conflict (convo_id) do update
     set epoch = excluded.epoch, group_info = excluded.group_info, signer_did = excluded.signer_did, created_at = now()
   where g.epoch <= excluded.epoch
), recorded as (
  -- All writers insert keys in this order, so two batches that wait for each other's keys cannot form a cycle.
  insert into idempotency_records (caller_did, method, key, fingerprint, reply)
  select sender_did, method, key, fingerprint, jsonb_build_object('generation', of_generation, 'epoch', new_epoch, 'seq', seq)
    from won where key is not null
   order by sender_did, method, key
)
select f.place, coalesce(f.refusal, case when w.seq is null then 'moved' end) as refusal,
       case when f.refusal in ('target_not_member', 'uninvited', 'already_member')
              then (select p.did from people p where p.nth = f.fault[2]) end as about,
       coalesce(w.new_epoch, f.current_epoch) as current_epoch, coalesce(w.seq, f.last_seq) as last_seq
  from judged f left join won w on w.place = f.place

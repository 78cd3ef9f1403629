-- members/add_members: adds members to one conversation or to many, with the commit that adds them or on the roster alone, each addition
-- judged independently. It is the only statement that adds to an existing roster. Where an addition is accepted, all of it is done: the
-- step to the next epoch, the log entry, the roster, the event, the Welcome, the key packages and the idempotency record; otherwise
-- nothing is. Returns one row for each addition: the conversation's position afterwards, or `refusal` with the position as it is.
-- Refusals, the first that applies:
--   not_held           the conversation is not in catbird.held (tx/take, tx/wait, tx/lock, tx/name)
--   other_epoch        the conversation is in another epoch than the commit, or does not exist
--   not_member         the sender is not an active member
--   already_member     `present` is an active member already
--   too_many_members   the conversation would have more than $20 members
--   key_package        a key package is unknown, used, issued to another caller, or of another cipher suite
--   key_known          the idempotency key was used
--   welcome_waits      a Welcome from an earlier membership waits for one of those who are added
--   moved              another replica wrote the conversation after this statement's snapshot
-- Needs the conversations exclusively. No conversation, key package or idempotency key twice. One element for each addition:
-- $1 convo_ids   $2 ids   $3 senders   $4 epochs that the commits were made in, null without a commit   $5 commits or null
-- $6 SHA-256 of those   $7 idempotency keys or null   $8 fingerprints   $9 Welcome ids or null   $10 Welcomes or null.
-- Lists, each with the number of its addition, from 1 on: $11 n   $12 who is added.   $13 n   $14 ids   $15 recipients   $16 key package
-- hashes or null of a Welcome's lines.   $17 n   $18 hashes   $19 owners of the key packages to use.
-- $20 most members of a conversation   $21 now
with items as (
  select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bytea[], $6::bytea[], $7::text[], $8::bytea[],
                       $9::text[], $10::bytea[])
    with ordinality i (convo_id, id, sender_did, epoch, ciphertext, body_hash, key, fingerprint, welcome_id, welcome, place)
), placed as materialized (
  select i.*, c.version, c.member_count, c.cipher_suite, c.current_epoch, c.last_seq,
         case when i.convo_id = any ((select nullif(current_setting('catbird.held', true), '')::text[])::text[]) is not true
                then 'not_held'
              when (c.current_epoch = coalesce(i.epoch, c.current_epoch)) is not true then 'other_epoch'
         end as misplaced
    -- With `offset 0` PostgreSQL can only look each one up. It may choose to read the whole table for a plain join.
    from items i left join lateral (select xmin as version, member_count, cipher_suite, current_epoch, last_seq
                                      from conversations where id = i.convo_id offset 0) c on true
), able as materialized (
  -- Nothing is looked up or locked for the others.
  select place, convo_id, sender_did, cipher_suite from placed where misplaced is null
), people as materialized (
  select * from unnest($11::bigint[], $12::text[]) with ordinality p (place, did, nth)
), crowds as materialized (
  -- Subqueries for one value each, here and below, which PostgreSQL can only run row by row. For a join or `exists` it may choose to read
  -- a whole table, if it made the plan while that was small.
  select p.place, count(*) as joining,
         (array_agg(p.did order by p.nth) filter (where (select true from members m
                                           where m.convo_id = i.convo_id and m.member_did = p.did and m.left_at is null)))[1] as present,
         count((select true from welcome_messages w
                 where w.convo_id = i.convo_id and w.recipient_did = p.did and w.state = 'available' limit 1)) as waiting
    from people p join able i on i.place = p.place
   group by p.place
), named as materialized (
  select * from unnest($17::bigint[], $18::bytea[], $19::text[]) n (place, hash, owner_did)
), one_time as materialized (
  -- All writers lock packages in this order. One that does not waits, or makes this statement wait, until lock_timeout at most.
  select n.place, k.hash
    from named n join able i on i.place = n.place join key_packages k on k.hash = n.hash and k.owner_did = n.owner_did
   where k.consumed_at is null and (k.claimed_by is null or k.claimed_by = i.sender_did) and not k.last_resort
     and k.cipher_suite = i.cipher_suite
   order by k.hash for update of k
), last_resort as materialized (
  select n.place from named n join able i on i.place = n.place join key_packages k on k.hash = n.hash and k.owner_did = n.owner_did
   where k.last_resort and k.cipher_suite = i.cipher_suite
), judged as materialized (
  select i.*, p.present,
         case when i.misplaced is not null then i.misplaced
              when (select true from members m
                     where m.convo_id = i.convo_id and m.member_did = i.sender_did and m.left_at is null) is not true then 'not_member'
              when p.present is not null then 'already_member'
              when i.member_count + p.joining > $20 then 'too_many_members'
              when (select count(*) from named n where n.place = i.place)
                <> (select count(*) from one_time k where k.place = i.place) + (select count(*) from last_resort k where k.place = i.place)
                then 'key_package'
              when (select true from idempotency_records r
                     where r.caller_did = i.sender_did and r.method = 'addMembers' and r.key = i.key) then 'key_known'
              when p.waiting > 0 then 'welcome_waits'
         end as refusal
    from placed i left join crowds p on p.place = i.place
), moved as (
  -- Updates only the row version that the snapshot saw: a replica that takes no lock may have written meanwhile, if only the roster.
  update conversations c
     set current_epoch = c.current_epoch + (f.ciphertext is not null)::int, last_seq = c.last_seq + (f.ciphertext is not null)::int,
         updated_at = now()
    from judged f
   where f.refusal is null and c.id = f.convo_id and c.current_epoch = f.current_epoch and c.xmin = f.version
  returning c.id, c.current_epoch, c.last_seq
), won as materialized (
  select f.*, m.current_epoch as new_epoch, m.last_seq as seq from judged f join moved m on m.id = f.convo_id where f.refusal is null
), appended as (
  insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext, body_hash)
  select convo_id, seq, id, sender_did, 'commit', epoch + 1, ciphertext, body_hash from won where ciphertext is not null
), joined as (
  insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq)
  select w.convo_id, p.did, w.seq, w.new_epoch, w.seq from won w join people p on p.place = w.place
  on conflict (convo_id, member_did) do update
     set joined_at = now(), joined_seq = excluded.joined_seq, joined_epoch = excluded.joined_epoch,
         last_read_seq = excluded.last_read_seq, last_read_at = null,
         left_at = null, left_by = null, left_epoch = null, left_seq = null
   where members.left_at is not null
), announced as (
  insert into event_stream (convo_id, event_type, payload)
  select w.convo_id, 'joined',
         jsonb_build_object('dids', (select jsonb_agg(p.did) from people p where p.place = w.place), 'actor', w.sender_did,
                            'epoch', w.new_epoch, 'seq', w.seq, 'welcome', w.welcome_id is not null)
    from won w
), welcomed as (
  insert into welcomes (id, welcome) select welcome_id, welcome from won where welcome_id is not null
), addressed as (
  insert into welcome_messages (id, convo_id, recipient_did, key_package_hash, welcome_id, epoch)
  select a.id, w.convo_id, a.did, a.hash, w.welcome_id, w.new_epoch
    from won w join unnest($13::bigint[], $14::text[], $15::text[], $16::bytea[]) a (place, id, did, hash) on a.place = w.place
), used as (
  update key_packages k set consumed_at = $21, consumed_convo = w.convo_id
    from one_time p join won w on w.place = p.place
   where k.hash = p.hash
), recorded as (
  -- All writers insert keys in this order, so two batches that wait for each other's keys cannot form a cycle.
  insert into idempotency_records (caller_did, method, key, fingerprint, reply)
  select sender_did, 'addMembers', key, fingerprint, jsonb_build_object('epoch', new_epoch, 'seq', seq)
    from won where key is not null
   order by sender_did, key
)
select f.place, coalesce(f.refusal, case when w.seq is null then 'moved' end) as refusal, f.present,
       coalesce(w.new_epoch, f.current_epoch) as current_epoch, coalesce(w.seq, f.last_seq) as last_seq
  from judged f left join won w on w.place = f.place

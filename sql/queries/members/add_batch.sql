-- members/add_batch: many commits that add members, of as many conversations, in one statement, each judged by itself. A row for each
-- that was done: the swap of the epoch, the entry, the roster, the event, the Welcome, the key packages and the record, all of it.
-- No row: nothing of it was written, and it has to be looked at alone to say why, or because it takes more than this. A row without
-- seq: nothing of it was written because somebody else wrote the conversation meanwhile, and it may be tried again.
-- needs: the conversations, exclusively; those that tx/take did not take are left out. Outside of its transaction that is all of them.
-- In step, no conversation, key package or idempotency key twice: $1 convo_ids   $2 ids   $3 senders   $4 epochs that they were made in
-- $5 commits   $6 SHA-256 of those   $7 idempotency keys or null   $8 fingerprints   $9 Welcome ids or null   $10 Welcomes or null.
-- Of the nth of those, from 1 on, in step: $11 n   $12 whom it adds.   $13 n   $14 ids   $15 recipients   $16 key package hashes or
-- null of a Welcome's lines.   $17 n   $18 hashes   $19 owners of the key packages to use up.
-- $20 most members of a conversation   $21 now
with items as materialized (
  select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bytea[], $6::bytea[], $7::text[], $8::bytea[],
                       $9::text[], $10::bytea[])
    with ordinality i (convo_id, id, sender_did, epoch, ciphertext, body_hash, key, fingerprint, welcome_id, welcome, place)
), able as materialized (
  -- Those that still may win; nothing is looked up or locked for the others.
  select i.*, c.xmin as version, c.member_count, c.cipher_suite
    from items i join conversations c on c.id = i.convo_id
   where i.convo_id = any ((select nullif(current_setting('catbird.held', true), '')::text[])::text[])
     and c.current_epoch = i.epoch
), people as materialized (
  select * from unnest($11::bigint[], $12::text[]) p (place, did)
), crowds as materialized (
  -- Questions for one value each, here and below, which PostgreSQL can only answer row by row: with a join or exists it may read a
  -- whole table instead, if it planned this while that was small.
  select p.place, count(*) as joining,
         count((select true from members m
                 where m.convo_id = i.convo_id and m.member_did = p.did and m.left_at is null)) as present,
         count((select true from welcome_messages w
                 where w.convo_id = i.convo_id and w.recipient_did = p.did and w.state = 'available' limit 1)) as waiting
    from people p join able i on i.place = p.place
   group by p.place
), named as materialized (
  select * from unnest($17::bigint[], $18::bytea[], $19::text[]) n (place, hash, owner_did)
), one_time as materialized (
  -- In one order for everybody who uses packages up. Who takes them in another order waits for 50 ms at most, or makes this wait so.
  select n.place, k.hash
    from named n join able i on i.place = n.place join key_packages k on k.hash = n.hash and k.owner_did = n.owner_did
   where k.consumed_at is null and (k.claimed_by is null or k.claimed_by = i.sender_did) and not k.last_resort
     and k.cipher_suite = i.cipher_suite
   order by k.hash for update of k
), last_resort as materialized (
  select n.place from named n join able i on i.place = n.place join key_packages k on k.hash = n.hash and k.owner_did = n.owner_did
   where k.last_resort and k.cipher_suite = i.cipher_suite
), fit as materialized (
  select i.*
    from able i join crowds p on p.place = i.place
   where p.present = 0 and p.waiting = 0
     and (select true from members m
           where m.convo_id = i.convo_id and m.member_did = i.sender_did and m.left_at is null)
     and i.member_count + p.joining <= $20
     and (select true from idempotency_records r
           where r.caller_did = i.sender_did and r.method = 'addMembers' and r.key = i.key) is not true
     and (select count(*) from named n where n.place = i.place)
       = (select count(*) from one_time k where k.place = i.place) + (select count(*) from last_resort k where k.place = i.place)
), moved as (
  -- Only the very version that the snapshot saw: a replica that takes no lock may have written meanwhile, be it only the roster.
  update conversations c set current_epoch = c.current_epoch + 1, last_seq = c.last_seq + 1, updated_at = now()
    from fit f
   where c.id = f.convo_id and c.current_epoch = f.epoch and c.xmin = f.version
  returning c.id, c.current_epoch, c.last_seq
), won as materialized (
  select f.*, m.current_epoch as new_epoch, m.last_seq as seq from fit f join moved m on m.id = f.convo_id
), appended as (
  insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext, body_hash)
  select convo_id, seq, id, sender_did, 'commit', epoch + 1, ciphertext, body_hash from won
), joined as (
  insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq)
  select w.convo_id, p.did, w.seq, w.new_epoch, w.seq from won w join people p on p.place = w.place
  on conflict (convo_id, member_did) do update
     set joined_at = now(), joined_seq = excluded.joined_seq, joined_epoch = excluded.joined_epoch,
         last_read_seq = excluded.last_read_seq, last_read_at = null,
         left_at = null, left_by = null, left_epoch = null, left_seq = null
   where members.left_at is not null
), told as (
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
), remembered as (
  -- In one order for everybody, so that two batches that wait for each other's keys cannot do so in a circle.
  insert into idempotency_records (caller_did, method, key, fingerprint, reply)
  select sender_did, 'addMembers', key, fingerprint, jsonb_build_object('epoch', new_epoch, 'seq', seq)
    from won where key is not null
   order by sender_did, key
)
select f.place, w.new_epoch as epoch, w.seq from fit f left join won w on w.place = f.place

-- messages/append_batch: many application messages in one statement, each judged by itself. No row for a message: it was not
-- written, and has to be looked at alone to say why (another epoch, not a member, sent before). A row without seq: it was not
-- written because somebody else wrote the conversation meanwhile, and may be tried again.
-- needs: the conversations, exclusively; those that tx/take did not take are left out. Outside of its transaction that is all of them.
-- In step, no id twice in a conversation: $1 convo_ids   $2 ids   $3 senders   $4 epochs   $5 ciphertexts   $6 embed_types
-- $7 embed_uris   $8 idempotency keys or null   $9 fingerprints.   $10 how many epochs a message may lag
with items as materialized (
  select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bytea[], $6::text[], $7::text[], $8::text[],
                       $9::bytea[])
    with ordinality i (convo_id, id, sender_did, epoch, ciphertext, embed_type, embed_uri, key, fingerprint, place)
), numbered as (
  select i.*, c.xmin as version, c.last_seq + row_number() over (partition by i.convo_id order by i.place) as seq
    from items i join conversations c on c.id = i.convo_id
   where i.convo_id = any ((select nullif(current_setting('catbird.held', true), '')::text[])::text[])
     and c.current_epoch between i.epoch and i.epoch + $10
     -- Questions for one value each, which PostgreSQL can only answer row by row: with exists it may read a whole table instead, if
     -- it planned this while that was small.
     and (select true from members m
           where m.convo_id = i.convo_id and m.member_did = i.sender_did and m.left_at is null)
     and (select true from messages e where e.convo_id = i.convo_id and e.id = i.id) is not true
     and (select true from idempotency_records r
           where r.caller_did = i.sender_did and r.method = 'sendMessage' and r.key = i.key) is not true
), moved as (
  -- Only the very version that the snapshot saw: a replica that takes no lock may have written meanwhile, be it only the roster.
  update conversations c set last_seq = n.newest, updated_at = now()
    from (select convo_id, version, max(seq) as newest from numbered group by convo_id, version) n
   where c.id = n.convo_id and c.xmin = n.version
  returning c.id
), appended as (
  insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext, embed_type, embed_uri)
  select n.convo_id, n.seq, n.id, n.sender_did, 'app', n.epoch, n.ciphertext, n.embed_type, n.embed_uri
    from numbered n join moved on moved.id = n.convo_id
  returning convo_id, id, seq, created_at
), remembered as (
  -- In one order for everybody, so that two batches that wait for each other's keys cannot do so in a circle.
  insert into idempotency_records (caller_did, method, key, fingerprint, reply)
  select n.sender_did, 'sendMessage', n.key, n.fingerprint,
         jsonb_build_object('id', n.id, 'received_at', a.created_at, 'seq', n.seq, 'epoch', n.epoch)
    from numbered n join appended a using (convo_id, seq)
   where n.key is not null
   order by n.sender_did, n.key
)
select n.convo_id, n.id, a.seq, a.created_at from numbered n left join appended a on a.convo_id = n.convo_id and a.seq = n.seq

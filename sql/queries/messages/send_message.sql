-- messages/send_message: appends application messages and proposals, of one conversation or of many, each judged independently. It is the
-- only statement that appends them. Returns one row for each message: its seq and time if it was appended, or else `refusal` with the conversation's
-- position. Refusals, the first that applies:
--   not_held      the conversation is not in catbird.held (tx/take, tx/wait, tx/lock, tx/name)
--   other_generation   the conversation is in another generation than the message
--   other_epoch   the conversation is in an epoch that does not accept the message, or does not exist
--   not_member    the sender is not an active member
--   id_taken      an entry of the conversation has this id
--   key_known     the idempotency key was used
--   bytes_known   the sender has sent the same proposal
--   too_many_proposals   the sender has as many proposals in this epoch as it may have
--   moved         another replica wrote the conversation after this statement's snapshot
-- Needs the conversations exclusively. The array parameters have one element for each message, no id twice in a conversation, and at most
-- one proposal of a sender in a conversation:
-- $1 convo_ids   $2 ids   $3 senders   $4 epochs   $5 ciphertexts, empty for bodies   $6 embed_types   $7 embed_uris   $8 idempotency keys or null
-- $9 fingerprints   $10 SHA-256 of proposals, null for application messages   $13 generations or null   $14 keys of bodies or null
-- $15 sizes of bodies or null.
-- $11 how many epochs an application message may lag   $12 maximum number of one member's proposals in one epoch
with items as (
  select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bytea[], $6::text[], $7::text[], $8::text[],
                       $9::bytea[], $10::bytea[], $13::bigint[], $14::text[], $15::integer[])
    with ordinality i (convo_id, id, sender_did, epoch, ciphertext, embed_type, embed_uri, key, fingerprint, body_hash, of_generation, body_key, body_bytes,
                      place)
), judged as materialized (
  select i.*, c.version, c.generation, c.current_epoch, c.last_seq,
         case when i.convo_id = any ((select nullif(current_setting('catbird.held', true), '')::text[])::text[]) is not true
                then 'not_held'
              when c.generation <> i.of_generation then 'other_generation'
              when (c.current_epoch between i.epoch and i.epoch + case when i.body_hash is null then $11 else 0 end) is not true
                then 'other_epoch'
              -- Subqueries for one value each, which PostgreSQL can only run row by row. For `exists` it may choose to read a whole
              -- table, if it made the plan while that was small.
              when (select true from members m
                     where m.convo_id = i.convo_id and m.member_did = i.sender_did and m.left_at is null) is not true then 'not_member'
              when (select true from messages e where e.convo_id = i.convo_id and e.id = i.id) then 'id_taken'
              when (select true from idempotency_records r
                     where r.caller_did = i.sender_did and r.key = i.key
                       and r.method = case when i.body_hash is null then 'sendMessage' else 'submitProposal' end) then 'key_known'
              when i.body_hash is not null
                then (select case when bool_or(p.body_hash = i.body_hash) then 'bytes_known'
                                  when count(*) >= $12 then 'too_many_proposals' end
                        from messages p
                       where p.convo_id = i.convo_id and p.message_type = 'proposal' and p.generation = c.generation and p.epoch = i.epoch
                         and p.sender_did = i.sender_did)
         end as refusal
    -- With `offset 0` PostgreSQL can only look each one up. It may choose to read the whole table for a plain join.
    from items i left join lateral (select xmin as version, generation, current_epoch, last_seq
                                      from conversations where id = i.convo_id offset 0) c on true
), numbered as materialized (
  -- Few columns, so that PostgreSQL does not sort and copy the ciphertexts.
  select place, convo_id, version, last_seq + row_number() over (partition by convo_id order by place) as seq
    from judged where refusal is null
), moved as (
  -- Updates only the row version that the snapshot saw: a replica that takes no lock may have written meanwhile, if only the roster.
  update conversations c set last_seq = n.newest, updated_at = now()
    from (select convo_id, version, max(seq) as newest from numbered group by convo_id, version) n
   where c.id = n.convo_id and c.xmin = n.version
  returning c.id
), appended as (
  insert into messages (convo_id, seq, id, sender_did, message_type, generation, epoch, ciphertext, body_key, body_bytes, embed_type, embed_uri,
                        body_hash)
  select n.convo_id, n.seq, j.id, j.sender_did, case when j.body_hash is null then 'app' else 'proposal' end, j.generation, j.epoch, j.ciphertext,
         j.body_key, j.body_bytes, j.embed_type, j.embed_uri, j.body_hash
    from numbered n join moved on moved.id = n.convo_id join judged j on j.place = n.place
  returning convo_id, id, seq, created_at
), recorded as (
  -- All writers insert keys in this order, so two batches that wait for each other's keys cannot form a cycle.
  insert into idempotency_records (caller_did, method, key, fingerprint, reply)
  select j.sender_did, case when j.body_hash is null then 'sendMessage' else 'submitProposal' end, j.key, j.fingerprint,
         jsonb_build_object('id', j.id, 'received_at', a.created_at, 'seq', a.seq, 'epoch', j.epoch)
    from appended a join judged j on j.convo_id = a.convo_id and j.id = a.id
   where j.key is not null
   order by j.sender_did, j.key
)
select j.place, coalesce(j.refusal, case when a.seq is null then 'moved' end) as refusal,
       j.current_epoch, coalesce(a.seq, j.last_seq) as last_seq, a.created_at
  from judged j left join appended a on a.convo_id = j.convo_id and a.id = j.id

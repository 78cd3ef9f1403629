-- legacy: the tables of the earlier server under their old names and columns, for queries that operators have at hand:
-- set search_path = legacy, public;
create schema legacy;

create view legacy.conversations as
select c.id, c.creator_did, c.current_epoch, n.name, c.group_id, c.cipher_suite, c.created_at, c.updated_at,
       (select r.key from idempotency_records r
         where r.caller_did = c.creator_did and r.method = 'createConvo' and r.reply ->> 'id' = c.id) as idempotency_key
  from conversations c left join conversation_metadata n on n.convo_id = c.id;

create view legacy.members as
select m.convo_id, m.member_did, m.joined_at, m.left_at, coalesce(u.unread_count, 0) as unread_count, m.last_read_at
  from members m left join member_unread u using (convo_id, member_did);

create view legacy.messages as
select e.id, e.convo_id, e.sender_did, e.message_type, e.epoch, e.seq, e.ciphertext, e.created_at,
       null::timestamptz as expires_at,
       (select r.key from idempotency_records r
         where r.caller_did = e.sender_did and r.method = 'sendMessage' and r.reply ->> 'id' = e.id) as idempotency_key
  from messages e;

-- The old id was a serial number. This one is taken from the hash.
create view legacy.key_packages as
select ('x00' || left(encode(k.hash, 'hex'), 14))::bit(64)::bigint as id, k.owner_did as did, k.cipher_suite, k.key_package as key_data, encode(k.hash, 'hex') as key_package_hash,
       k.created_at, k.expires_at, k.consumed_at is not null as consumed, k.consumed_at
  from key_packages k;

create view legacy.welcome_messages as
select w.id, w.convo_id, w.recipient_did, b.welcome as welcome_data, w.key_package_hash, w.created_at,
       w.state = 'consumed' as consumed, w.confirmed_at as consumed_at, w.state,
       null::timestamptz as fetched_at, w.confirmed_at
  from welcome_messages w left join welcomes b on b.id = w.welcome_id;

create view legacy.envelopes as
select id, convo_id, recipient_did, message_id, created_at, delivered_at from envelopes;

create view legacy.cursors as select user_did, convo_id, last_seen_cursor, updated_at from cursors;

create view legacy.event_stream as
select id::text as id, convo_id, event_type, payload, emitted_at from event_stream;

create view legacy.message_recipients as select message_id, recipient_did, delivered_at from message_recipients;

create view legacy.blobs as select key, content_type, size_bytes, created_at, ref_count from blobs;

create view legacy.idempotency_cache as
select key, method as endpoint, reply as response_body, 200 as status_code, created_at,
       null::timestamptz as expires_at
  from idempotency_records;

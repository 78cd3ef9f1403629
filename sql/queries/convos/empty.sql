-- convos/empty: deletes the content of a conversation that has ended, some rows of each table: the bytes of its entries with the stored replies to
-- them and their references to blobs, those to their bodies included, its name, its GroupInfo, its requests for readdition and its envelopes. The
-- entries themselves are deleted later (sweeps/erase): deleting recent ones would make the cursors of everybody too old (event_horizon).
-- needs: the conversation, exclusively.
-- $1 convo_id   $2 after this seq   $3 maximum number of rows of each table   $4 bytes, after which no further entry is taken
with entries as (
  update messages m set ciphertext = '', body_key = null, body_bytes = null, embed_type = null, embed_uri = null
    from (select seq, bytes, sum(bytes) over (order by seq) - bytes as before
            from (select seq, octet_length(ciphertext) + coalesce(body_bytes, 0) as bytes from messages
                   where convo_id = $1 and seq > $2 and (octet_length(ciphertext) > 0 or body_key is not null) order by seq limit $3) e) full_ones
   where m.convo_id = $1 and m.seq = full_ones.seq and full_ones.before < $4
  returning m.seq, m.id, m.sender_did, full_ones.bytes
), replies as (
  -- Those of each sender are found by their key, and no others are read.
  delete from idempotency_records r
   using (select distinct sender_did from entries) s
   cross join lateral (select i.caller_did, i.method, i.key, i.reply ->> 'id' as id from idempotency_records i
                        where i.caller_did = s.sender_did and i.method = 'sendMessage' offset 0) sent
    join entries e on e.sender_did = sent.caller_did and e.id = sent.id
   where r.caller_did = sent.caller_did and r.method = sent.method and r.key = sent.key
), attachments as (
  delete from blob_references r using entries e where r.convo_id = $1 and r.seq = e.seq
), created as (
  delete from idempotency_records r using conversations c
   where c.id = $1 and r.caller_did = c.creator_did and r.method = 'createConvo' and r.reply ->> 'id' = $1
), envelopes as (
  delete from envelopes where id in (select id from envelopes where convo_id = $1 limit $3) returning 1
), metadata as (
  delete from conversation_metadata where convo_id = $1
), group_info as (
  delete from group_infos where convo_id = $1
), readditions as (
  delete from readdition_requests where ctid in (select ctid from readdition_requests where convo_id = $1 limit $3) returning 1
), counted as (
  select (select count(*) from entries) as entries, (select count(*) from envelopes) as envelopes, (select count(*) from readditions) as readditions
)
select entries, coalesce((select sum(bytes) from entries), 0)::bigint as bytes, envelopes,
       coalesce((select max(seq) from entries), $2) as last, entries > 0 or envelopes >= $3 or readditions >= $3 as more
  from counted

-- blobs/begin_body: begins the body of a message. No row: the message would be refused now, because of its conversation, epoch, generation,
-- sender, id or key, or the conversation keeps all ciphertexts in the database.
-- Another attempt of the same statement changes nothing more.
-- $1 key   $2 convo_id   $3 sender   $4 bytes   $5 seconds until it expires   $6 epoch   $7 how many epochs the message may lag
-- $8 generation or null   $9 id of the message   $10 idempotency key or null
insert into blobs (key, convo_id, owner_did, size_bytes, is_body, expires_at)
select $1, c.id, m.member_did, $4, true, now() + make_interval(secs => $5)
  from conversations c join members m on m.convo_id = c.id
 where c.id = $2 and c.storage_model = 'blob' and c.current_epoch between $6 and $6 + $7 and ($8::bigint is null or c.generation = $8)
   and m.member_did = $3 and m.left_at is null
   and not exists (select from messages e where e.convo_id = $2 and e.id = $9)
   and not exists (select from idempotency_records r where r.caller_did = $3 and r.method = 'sendMessage' and r.key = $10)
on conflict (key) do update set expires_at = excluded.expires_at
returning key

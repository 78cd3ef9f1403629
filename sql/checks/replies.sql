-- replies: a request is on record as answered, but what it answered is not in the log, and not because of its age (P4)
select r.reply ->> 'id' as convo_id, 'message of a recorded sendMessage is missing' as finding
  from idempotency_records r
 where r.method = 'sendMessage'
   and r.created_at >= coalesce((select cutoff from sweeps where job = 'messages'), '-infinity')
   and not exists (select from messages m where m.id = r.reply ->> 'id' and m.sender_did = r.caller_did)
union all
select r.reply ->> 'id', 'conversation of a recorded createConvo is missing'
  from idempotency_records r
 where r.method = 'createConvo' and not exists (select from conversations c where c.id = r.reply ->> 'id')

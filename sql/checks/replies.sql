-- replies: a stored reply names an entry that does not exist and was not deleted because of its age (P4)
with kept as (
  select coalesce((select cutoff from sweeps where job = 'messages'), '-infinity') as entries,
         coalesce((select cutoff from sweeps where job = 'abandoned'), '-infinity') as convos
)
select r.reply ->> 'id' as convo_id, 'message of a recorded sendMessage is missing' as finding
  from idempotency_records r cross join kept
 where r.method = 'sendMessage' and r.created_at >= greatest(kept.entries, kept.convos)
   and not exists (select from messages m where m.id = r.reply ->> 'id' and m.sender_did = r.caller_did)
union all
select r.reply ->> 'id', 'conversation of a recorded createConvo is missing'
  from idempotency_records r cross join kept
 where r.method = 'createConvo' and r.created_at >= kept.convos
   and not exists (select from conversations c where c.id = r.reply ->> 'id')

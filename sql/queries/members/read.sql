-- members/read: moves read positions forward, never back and never beyond the log.
-- Subqueries hide the length of the lists, for which PostgreSQL would plan the statement anew each time.
-- $1 convo_ids   $2 dids   $3 seqs
update members m
   set last_read_seq = r.seq, last_read_at = now()
  from unnest((select $1::text[]), (select $2::text[]), (select $3::bigint[])) r (convo_id, did, seq)
 where m.convo_id = r.convo_id and m.member_did = r.did and m.left_at is null and m.last_read_seq < r.seq
   and r.seq <= (select last_seq from conversations c where c.id = r.convo_id)

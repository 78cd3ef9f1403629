-- mailboxes/claim: claims due envelopes, each as an attempt that counts as failed unless it ends before $2, within the
-- limits per host and recipient. The number of the attempt distinguishes its result from an earlier one.
-- $1 most   $2 seconds   $3 hosts   $4 room left there, in step   $5 room at any other host
-- $6 recipients with attempts that run   $7 room left for them, in step   $8 room for any other recipient
-- $9 since when any is due
with room as materialized (
  select host, room from unnest($3::text[], $4::bigint[]) r (host, room)
), share as materialized (
  select did, room from unnest($6::text[], $7::bigint[]) s (did, room)
), due as materialized (
  select e.id, e.host, e.recipient_did, e.next_attempt_at from envelopes e
   where e.state = 'pending' and e.next_attempt_at >= $9 and e.next_attempt_at <= statement_timestamp()
     and not exists (select from room r where r.host = e.host and r.room <= 0)
     and not exists (select from share s where s.did = e.recipient_did and s.room <= 0)
   order by e.next_attempt_at limit $1 * 16
), at_host as materialized (
  select d.*, row_number() over (partition by d.host order by d.next_attempt_at, d.id) as place from due d
), fair as materialized (
  select h.id, h.next_attempt_at,
         row_number() over (partition by h.recipient_did order by h.next_attempt_at, h.id)
         <= coalesce((select s.room from share s where s.did = h.recipient_did), $8) as fits
    from at_host h
   where h.place <= coalesce((select r.room from room r where r.host = h.host), $5)
), picked as materialized (
  select e.id from envelopes e
   where e.id in (select f.id from fair f where f.fits order by f.next_attempt_at limit $1)
     and e.state = 'pending' and e.next_attempt_at <= statement_timestamp()
     for update of e skip locked
)
update envelopes e set attempts = e.attempts + 1, next_attempt_at = statement_timestamp() + make_interval(secs => $2)
  from picked where e.id = picked.id
returning e.id, e.convo_id, e.recipient_did, e.seq, e.host, e.attempts,
          coalesce((select octet_length(m.ciphertext) + coalesce(m.body_bytes, 0) from messages m where m.convo_id = e.convo_id and m.seq = e.seq), 0) as bytes

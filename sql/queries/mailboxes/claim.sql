-- mailboxes/claim: takes envelopes whose time has come, as an attempt that counts as failed unless it ends before $2. Only as many
-- for one host as there is room for. The number of the attempt tells its end from that of an earlier one.
-- $1 most   $2 seconds   $3 hosts where attempts run   $4 room left there, in step   $5 room anywhere else
with room as materialized (
  select host, room from unnest($3::text[], $4::bigint[]) r (host, room)
), due as materialized (
  select e.id, e.host, e.next_attempt_at from envelopes e
   where e.state = 'pending' and e.next_attempt_at <= statement_timestamp()
     and not exists (select from room r where r.host = e.host and r.room <= 0)
   order by e.next_attempt_at limit $1 * 16
), fair as materialized (
  select d.id, d.next_attempt_at,
         row_number() over (partition by d.host order by d.next_attempt_at)
         <= coalesce((select r.room from room r where r.host = d.host), $5) as fits
    from due d
), picked as materialized (
  select e.id from envelopes e
   where e.id in (select f.id from fair f where f.fits order by f.next_attempt_at limit $1)
     and e.state = 'pending' and e.next_attempt_at <= statement_timestamp()
     for update of e skip locked
)
update envelopes e set attempts = e.attempts + 1, next_attempt_at = statement_timestamp() + make_interval(secs => $2)
  from picked where e.id = picked.id
returning e.id, e.convo_id, e.recipient_did, e.seq, e.host, e.attempts,
          coalesce((select octet_length(m.ciphertext) from messages m where m.convo_id = e.convo_id and m.seq = e.seq), 0) as bytes

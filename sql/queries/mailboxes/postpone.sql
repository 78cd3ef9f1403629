-- mailboxes/postpone: postpones envelopes of resting hosts, so that those behind them are found. They become due at
-- different times and lose no attempt.
-- $1 hosts   $2 seconds that each still rests, in step   $3 maximum number of envelopes   $4 since when any is due
with due as materialized (
  select e.id, r.seconds
    from envelopes e join unnest($1::text[], $2::float8[]) r (host, seconds) on r.host = e.host
   where e.state = 'pending' and e.next_attempt_at >= $4 and e.next_attempt_at <= statement_timestamp()
   order by e.next_attempt_at limit $3 for update of e skip locked
)
update envelopes e set next_attempt_at = statement_timestamp() + make_interval(secs => due.seconds * (1 + random() / 2))
  from due where e.id = due.id

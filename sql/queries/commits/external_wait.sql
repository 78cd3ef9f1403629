-- commits/external_wait: returns the milliseconds until there is room for an external commit of the present epoch, by what is stored now. No
-- row if there is room, if the commit is of another epoch, or if its sender is not a member.
-- $1 convo_id   $2 sender   $3 identity of the leaf   $4 seconds   $5 most in a conversation in these seconds; 0 is no limit
-- $6 generation and $7 epoch that the commit was made in
with recent as materialized (
  select identity, accepted_at, row_number() over (order by accepted_at desc) as nth from external_commits
   where convo_id = $1 and accepted_at > clock_timestamp() - make_interval(secs => $4)
)
select ceil(extract(epoch from max(r.accepted_at) + make_interval(secs => $4) - clock_timestamp()) * 1000)::bigint as wait_ms
  from recent r
  join conversations c on c.id = $1 and c.generation = $6 and c.current_epoch = $7
  join members m on m.convo_id = c.id and m.member_did = $2 and m.left_at is null
 where r.identity = $3 or $5 > 0 and r.nth = $5
having count(*) > 0

-- members/strangers: returns those of a list that are strangers to a caller: there is no conversation that both are in
-- and that both have created or read. Being added is not enough. Of each DID only some of the newest conversations are
-- read, each by its key. Scalar subqueries force PostgreSQL to do so row by row.
-- A subquery hides the length of the list, for which PostgreSQL would plan the statement anew each time.
-- $1 did   $2 dids   $3 maximum number of conversations of each
select d.did from unnest((select $2::text[])) d (did)
 where d.did <> $1
   and (select true
          from (select m.convo_id, m.was_there or m.last_read_at is not null as was_there from members m
                 where m.member_did = d.did and m.left_at is null order by m.convo_id desc limit $3) t
         where (select true from members a where a.convo_id = t.convo_id and a.member_did = $1 and a.left_at is null)
           and (t.was_there
                or (select c.creator_did = d.did from conversations c where c.id = t.convo_id))
         limit 1) is not true

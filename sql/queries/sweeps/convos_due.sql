-- sweeps/convos_due: checks conversations in order of their ids, and returns whether each should end, or ended so long
-- ago that its rows may be deleted. A conversation ends if nothing was written and no member joined or left for a long
-- time, and at most one of its members was ever active: it created the conversation, opened its Welcome (was_there),
-- read (last_read_at), or wrote.
-- $1 after this id   $2 nothing happened since   $3 conversations   $4 ended before this
select c.id,
       case when c.ended_at is not null then c.ended_at < $4
            when c.updated_at >= $2 then false
            else (select count(*) from (select from members m
                                         where m.convo_id = c.id and m.left_at is null
                                           and (m.was_there or m.last_read_at is not null or m.member_did = c.creator_did
                                                or m.member_did = (select e.sender_did from messages e
                                                                    where e.convo_id = c.id and e.seq = c.last_seq))
                                         limit 2) there) < 2
       end as due
  from (select id, creator_did, last_seq, updated_at, ended_at from conversations where id > $1 order by id limit $3) c
 order by c.id

-- sweeps/logs_due: checks conversations in order of their ids, and returns whether each has anything to delete: an old
-- entry at the log's beginning, which is never its newest, a commit before it that every member has read or that is
-- too old to wait, or a proposal before it that a reset has made void.
-- $1 after this id   $2 cutoff   $3 conversations   $4 commits are too old before this, or null
select c.id,
       coalesce((select m.created_at < $2 from messages m
                  where m.convo_id = c.id and m.seq >= c.start and m.seq < c.last_seq
                  order by m.seq limit 1), false)
       or coalesce((select m.seq < c.start
                           and (m.seq <= (select min(r.last_read_seq) from members r
                                           where r.convo_id = c.id and r.left_at is null)
                                or m.created_at < $4)
                      from messages m
                     where m.convo_id = c.id and m.message_type = 'commit' and m.seq < c.start
                     order by m.seq limit 1), false)
       or coalesce((select true from past_groups g join messages m on m.convo_id = g.convo_id and m.epoch = g.final_epoch
                     where g.convo_id = c.id and m.message_type = 'proposal' and m.generation = g.generation and m.seq < c.start
                     limit 1), false) as due
  from (select id, last_seq, coalesce((select s.seq from log_starts s where s.convo_id = id), 1) as start
          from conversations where id > $1 order by id limit $3) c
 order by c.id

-- convos/list: somebody's conversations, newest first, with what it has not read, counted up to a limit.
-- $1 did   $2 before this id or null   $3 rows   $4 most unread messages that are counted in a conversation
select c.id, c.group_id, c.creator_did, c.cipher_suite, c.current_epoch, c.last_seq, c.created_at, n.name, n.description,
       (select count(*) from members a where a.convo_id = c.id and a.left_at is null) as member_count,
       (select e.created_at from messages e
         where e.convo_id = c.id and e.seq > m.joined_seq and e.message_type = 'app'
         order by e.seq desc limit 1) as last_message_at,
       case when m.last_read_seq >= c.last_seq then 0
            else (select count(*) from (select from messages e
                                         where e.convo_id = c.id and e.seq > m.last_read_seq
                                           and e.message_type = 'app' and e.sender_did <> $1
                                         order by e.seq limit $4) counted) end as unread_count
  from members m
  join conversations c on c.id = m.convo_id
  left join conversation_metadata n on n.convo_id = c.id
 where m.member_did = $1 and m.left_at is null and ($2::text is null or m.convo_id < $2)
 order by m.convo_id desc
 limit $3

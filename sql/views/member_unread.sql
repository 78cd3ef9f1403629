-- member_unread: application messages of others after each active member's read position.
create view member_unread as
select m.convo_id, m.member_did, m.last_read_seq, m.last_read_at,
       (select count(*) from messages e
         where e.convo_id = m.convo_id and e.seq > m.last_read_seq
           and e.message_type = 'app' and e.sender_did <> m.member_did) as unread_count
  from members m
 where m.left_at is null;
comment on view member_unread is 'Application messages of others after the read position of each active member.';

-- late_entries: an entry was written by a member that had left (P7)
select e.convo_id, 'entry ' || e.seq || ' by a member that had left at seq ' || m.left_seq as finding
  from messages e join members m on m.convo_id = e.convo_id and m.member_did = e.sender_did
 where m.left_seq is not null and e.seq > m.left_seq

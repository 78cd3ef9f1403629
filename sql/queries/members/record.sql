-- members/record: returns the record of a current or former member, the position of the conversation, and the key of
-- the present incarnation, null if it has not begun. No row: no conversation, or never a member.
-- $1 convo_id   $2 did
select c.generation, c.current_epoch, c.last_seq, m.joined_seq, m.joined_epoch, m.left_by, m.left_epoch, m.left_seq,
       (select cursor_key from present_incarnation) as cursor_key
  from conversations c join members m on m.convo_id = c.id
 where c.id = $1 and m.member_did = $2

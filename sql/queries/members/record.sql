-- members/record: returns the record of a current or former member, the position of the conversation, and the key of
-- the present incarnation, null if it has not begun. No row: no conversation, or never a member. joined_epoch is about
-- the conversation's present group: a member from before that group sees all its commits.
-- $1 convo_id   $2 did
select c.generation, c.current_epoch, c.last_seq, m.joined_seq,
       case when m.joined_seq < c.group_seq then c.initial_epoch else m.joined_epoch end as joined_epoch,
       m.joined_epoch as joined_at_epoch,
       m.left_by, m.left_epoch, m.left_seq,
       (select cursor_key from present_incarnation) as cursor_key
  from conversations c join members m on m.convo_id = c.id
 where c.id = $1 and m.member_did = $2

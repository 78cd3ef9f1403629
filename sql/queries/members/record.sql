-- members/record: what somebody is to a conversation, where that stands, and the key of the incarnation that says so: null if the
-- present one has not begun yet. No row: no conversation, or never in it.
-- $1 convo_id   $2 did
select c.current_epoch, c.last_seq, m.joined_seq, m.joined_epoch, m.left_by, m.left_epoch, m.left_seq,
       (select cursor_key from present_incarnation) as cursor_key
  from conversations c join members m on m.convo_id = c.id
 where c.id = $1 and m.member_did = $2

-- epochs/advance: compare-and-swap of a conversation's epoch. No row: another commit won, or the position was remembered wrongly.
-- needs: the conversation, exclusively.   $1 convo_id   $2 expected epoch   $3 expected last_seq, null under the lock
update conversations
   set current_epoch = current_epoch + 1, last_seq = last_seq + 1, updated_at = now()
 where id = $1 and current_epoch = $2 and ($3::bigint is null or last_seq = $3)
returning current_epoch, last_seq

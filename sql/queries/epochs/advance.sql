-- epochs/advance: compare-and-swap of the epoch of a conversation. No row: another commit won, or the remembered
-- position was wrong.
-- needs: the conversation, exclusively.
-- $1 convo_id   $2 expected epoch   $3 expected last_seq, null under the lock
update conversations
   set current_epoch = current_epoch + 1, last_seq = last_seq + 1, updated_at = now()
 where id = $1 and current_epoch = $2 and ($3::bigint is null or last_seq = $3)
returning current_epoch, last_seq

-- epochs/lock_row: locks the row of a conversation whose roster is about to change, so that writers without the advisory
-- lock wait too.
-- needs: the conversation, exclusively.
-- $1 convo_id   $2, $3 remembered epoch and last_seq, null under the lock
update conversations
   set updated_at = now()
 where id = $1 and ($2::bigint is null or (current_epoch = $2 and last_seq = $3))
returning current_epoch, last_seq

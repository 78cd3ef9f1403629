-- epochs/extend: reserves the next seq for one application message of an accepted epoch. No row: the epoch is not
-- accepted.
-- needs: the conversation, exclusively.
-- $1 convo_id   $2 the message's epoch   $3 how many epochs it may lag
-- $4, $5 remembered epoch and last_seq, null under the lock
update conversations
   set last_seq = last_seq + 1, updated_at = now()
 where id = $1 and current_epoch between $2 and $2 + $3
   and ($4::bigint is null or (current_epoch = $4 and last_seq = $5))
returning current_epoch, last_seq

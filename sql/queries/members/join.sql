-- members/join: makes everybody on the list an active member who sees what comes after $3. Who had left starts anew.
-- needs: the conversation, exclusively.   $1 convo_id   $2 dids   $3 joined_seq   $4 joined_epoch
insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq)
select $1, did, $3, $4, $3 from unnest($2::text[]) did
on conflict (convo_id, member_did) do update
   set joined_at = now(), joined_seq = excluded.joined_seq, joined_epoch = excluded.joined_epoch,
       last_read_seq = excluded.last_read_seq, last_read_at = null,
       left_at = null, left_by = null, left_epoch = null, left_seq = null
 where members.left_at is not null

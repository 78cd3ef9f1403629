-- group_infos/replace: stores a GroupInfo of a conversation's present epoch. It never replaces one of a later epoch.
-- needs: the conversation, exclusively, with its row locked.
-- $1 convo_id   $2 epoch   $3 GroupInfo   $4 DID that signed it
insert into group_infos as g (convo_id, epoch, group_info, signer_did)
select id, $2, $3, $4 from conversations where id = $1 and current_epoch = $2
on conflict (convo_id) do update
   set epoch = excluded.epoch, group_info = excluded.group_info, signer_did = excluded.signer_did, created_at = now()
 where g.epoch <= excluded.epoch

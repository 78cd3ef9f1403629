-- commit_reports/put: stores a member's report of the commit of an epoch, in place of an earlier one.
-- needs: the conversation, exclusively.
-- $1 convo_id   $2 generation   $3 epoch   $4 member   $5 SHA-256 of the commit   $6 epoch authenticator or null   $7 applied
with older as (
  update commit_reports set is_newest = false
   where convo_id = $1 and generation = $2 and member_did = $4 and epoch < $3 and is_newest
)
insert into commit_reports (convo_id, generation, epoch, member_did, commit_hash, epoch_authenticator, applied, is_newest)
values ($1, $2, $3, $4, $5, $6, $7,
        not exists (select from commit_reports where convo_id = $1 and generation = $2 and member_did = $4 and epoch > $3))
on conflict (convo_id, generation, member_did, epoch) do update
   set commit_hash = excluded.commit_hash, epoch_authenticator = excluded.epoch_authenticator, applied = excluded.applied,
       reported_at = now()

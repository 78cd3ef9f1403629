-- erasure/member: deletes what is stored of a person in a conversation beside its membership and its entries, some rows of each table. Who was
-- removed by the person counts as having left; an addition that the person had claimed can be claimed by others. Returns the Welcomes whose
-- bytes may not be needed any more, and what was changed.
-- needs: the conversation, exclusively.
-- $1 convo_id   $2 did   $3 maximum number of rows of each table
with envelopes as (
  delete from envelopes where id in (select id from envelopes where convo_id = $1 and recipient_did = $2 limit $3) returning 1
), reports as (
  delete from commit_reports where ctid in (select ctid from commit_reports where convo_id = $1 and member_did = $2 limit $3) returning 1
), removals as (
  update members set left_by = member_did
   where convo_id = $1 and member_did in (select member_did from members where convo_id = $1 and left_by = $2 and member_did <> $2 limit $3)
  returning 1
), claims as (
  update device_memberships set claimed_by = null, claim_expires_at = null
   where convo_id = $1 and (owner_did, device_id) in (select owner_did, device_id from device_memberships
                                                       where convo_id = $1 and claimed_by = $2 and owner_did <> $2 limit $3)
  returning 1
), devices as (
  delete from device_memberships where convo_id = $1 and owner_did = $2 returning 1
), welcomes as (
  delete from welcome_messages where id in (select id from welcome_messages where recipient_did = $2 and convo_id = $1 limit $3)
  returning welcome_id
), cursors as (
  delete from cursors where user_did = $2 and convo_id = $1 returning 1
), external as (
  delete from external_commits where convo_id = $1 and split_part(identity, '#', 1) = $2 returning 1
), readditions as (
  delete from readdition_requests where convo_id = $1 and member_did = $2 returning 1
), signed as (
  -- The GroupInfo stays for members that lost their state, until it is replaced.
  update group_infos set signer_did = '' where convo_id = $1 and signer_did = $2 returning 1
), counted as (
  select (select count(*) from envelopes) as envelopes, (select count(*) from reports) as reports, (select count(*) from removals) as removals,
         (select count(*) from claims) as claims, (select count(*) from welcomes) as welcomes
)
select jsonb_build_object(
         'welcomes', welcomes, 'cursors', (select count(*) from cursors), 'envelopes', envelopes, 'reports', reports,
         'externalCommits', (select count(*) from external), 'readditions', (select count(*) from readditions),
         'devicesInGroups', (select count(*) from devices), 'claims', claims, 'removals', removals,
         'groupInfos', (select count(*) from signed))::text as counts,
       greatest(envelopes, reports, removals, claims, welcomes) >= $3 as more,
       array(select distinct welcome_id from welcomes where welcome_id is not null) as withdrawn
  from counted

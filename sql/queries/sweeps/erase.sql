-- sweeps/erase: deletes a part of the rows of a conversation that has ended, except its members and its own row.
-- needs: the conversation, exclusively.
-- $1 convo_id   $2 maximum number of rows of each table   $3 bytes, after which no further entry is taken
with entries as (
  delete from messages m
   using (select seq, sum(bytes) over (order by seq) - bytes as before
            from (select seq, octet_length(ciphertext) as bytes from messages where convo_id = $1 order by seq limit $2) e) old
   where m.convo_id = $1 and m.seq = old.seq and old.before < $3
  returning 1
), commits as (
  delete from retired_commits where convo_id = $1
     and epoch in (select epoch from retired_commits where convo_id = $1 order by epoch limit $2)
  returning 1
), welcomes as (
  delete from welcome_messages where id in (select a.id from welcome_messages a join members m on m.member_did = a.recipient_did
                                             and m.convo_id = a.convo_id where m.convo_id = $1 limit $2)
  returning 1
), cursors as (
  delete from cursors c using (select member_did from members where convo_id = $1) m
   where c.user_did = m.member_did and c.convo_id = $1
  returning 1
), mailboxes as (
  delete from mailboxes b using (select member_did from members where convo_id = $1) m
   where b.member_did = m.member_did and b.convo_id = $1
  returning 1
), devices as (
  delete from device_memberships where convo_id = $1
     and (owner_did, device_id) in (select owner_did, device_id from device_memberships where convo_id = $1 limit $2)
  returning 1
), envelopes as (
  delete from envelopes where id in (select id from envelopes where convo_id = $1 limit $2)
  returning 1
), reports as (
  delete from commit_reports where ctid in (select ctid from commit_reports where convo_id = $1 limit $2)
  returning 1
), external as (
  delete from external_commits where ctid in (select ctid from external_commits where convo_id = $1 limit $2)
  returning 1
), readditions as (
  delete from readdition_requests where ctid in (select ctid from readdition_requests where convo_id = $1 limit $2)
  returning 1
)
select (select count(*) from entries) + (select count(*) from commits) + (select count(*) from welcomes)
       + (select count(*) from cursors) + (select count(*) from mailboxes) + (select count(*) from envelopes)
       + (select count(*) from reports) + (select count(*) from devices) + (select count(*) from readditions) + (select count(*) from external) as deleted

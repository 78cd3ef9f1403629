-- strangers: rows of conversations that do not exist, or entries or requests of DIDs that were never members (P7)
select m.convo_id, 'a member of a conversation that does not exist' as finding
  from members m where not exists (select from conversations c where c.id = m.convo_id)
union all
select e.convo_id, 'entry ' || e.seq || ' in a conversation that does not exist'
  from messages e where not exists (select from conversations c where c.id = e.convo_id)
union all
select e.convo_id, 'entry ' || e.seq || ' by a DID that was never a member'
  from messages e join conversations c on c.id = e.convo_id
 where not exists (select from members m where m.convo_id = e.convo_id and m.member_did = e.sender_did)
union all
select r.convo_id, 'a request for readdition by a DID that was never a member'
  from readdition_requests r
 where not exists (select from members m where m.convo_id = r.convo_id and m.member_did = r.member_did)
union all
select e.convo_id, 'an external commit by a DID that was never a member'
  from external_commits e
 where not exists (select from members m where m.convo_id = e.convo_id and m.member_did = split_part(e.identity, '#', 1))

-- commit_reports: a report is about an epoch that no commit created, or by a DID that was never a member (P1, P7)
select r.convo_id, 'a report of epoch ' || r.epoch || ' by a DID that was never a member' as finding
  from commit_reports r
 where not exists (select from members m where m.convo_id = r.convo_id and m.member_did = r.member_did)
union all
select r.convo_id, 'a report is about epoch ' || r.epoch || ', which no commit created'
  from commit_reports r join conversations c on c.id = r.convo_id
 where c.ended_at is null and not exists (select from commits m where m.convo_id = r.convo_id and m.generation = r.generation and m.epoch = r.epoch)
union all
select w.convo_id, 'a conversation that does not exist counts as wedged'
  from wedged_convos w where not exists (select from conversations c where c.id = w.convo_id)
union all
select w.convo_id, 'counts as wedged in generation ' || w.generation || ', and is in generation ' || c.generation
  from wedged_convos w join conversations c on c.id = w.convo_id where w.generation <> c.generation

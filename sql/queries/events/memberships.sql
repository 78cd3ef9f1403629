-- events/memberships: returns current and former memberships, with the versions of the rosters.
-- In step: $1 convo_ids   $2 dids
select m.convo_id, m.member_did, m.joined_seq, m.joined_at, m.left_seq, c.last_seq, c.roster_version
  from unnest($1::text[], $2::text[]) w (convo_id, did)
  join members m on m.convo_id = w.convo_id and m.member_did = w.did
  join conversations c on c.id = m.convo_id

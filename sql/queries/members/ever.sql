-- members/ever: returns those pairs of conversation and DID that are or were memberships. It probes the index once per
-- pair, whether or not the conversation exists, so that the time reveals nothing.
-- In step: $1 convo_ids   $2 dids
select asked.convo_id, asked.member_did
  from unnest($1::text[], $2::text[]) asked (convo_id, member_did)
  join members m on m.convo_id = asked.convo_id and m.member_did = asked.member_did

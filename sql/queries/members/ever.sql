-- members/ever: which of these people are or were in which of these conversations. One look into one index for each pair, whether there is
-- such a conversation or not, so that not even the time tells.   In step: $1 convo_ids   $2 dids
select asked.convo_id, asked.member_did
  from unnest($1::text[], $2::text[]) asked (convo_id, member_did)
  join members m on m.convo_id = asked.convo_id and m.member_did = asked.member_did

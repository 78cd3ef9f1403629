-- members/list: returns the current members of conversations, in order of joining. The first of each may remove others. Each conversation is
-- looked up by its key, as in commits/submit_commit.
-- A subquery hides the length of the list, for which PostgreSQL would plan the statement anew each time.
-- $1 convo_ids
select m.convo_id, m.member_did, m.joined_at,
       row_number() over (partition by m.convo_id
                          order by m.member_did <> c.creator_did, m.joined_seq, m.joined_at, m.member_did) = 1 as is_admin
  from unnest((select $1::text[])) i (convo_id)
 cross join lateral (select creator_did from conversations where id = i.convo_id offset 0) c
 cross join lateral (select convo_id, member_did, joined_at, joined_seq from members
                      where convo_id = i.convo_id and left_at is null offset 0) m
 order by m.convo_id, m.joined_seq, m.joined_at, m.member_did

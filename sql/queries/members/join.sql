-- members/join: makes everybody on the list a member of a new conversation, who sees what comes after $3, and announces so in one event.
-- Without a Welcome the others are named on the roster only, and a commit brings them into the group.
-- needs: the conversation, exclusively.
-- $1 convo_id   $2 dids   $3 joined_seq   $4 joined_epoch   $5 who added them   $6 whether a Welcome waits for them
with counted as (
  update conversations set member_count = cardinality($2::text[]), roster_version = roster_version + 1 where id = $1
  returning roster_version
), joined as (
  insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq, in_group, roster_version)
  select $1, did, $3, $4, $3, $6 or did = $5, roster_version from counted, unnest($2::text[]) did
)
insert into event_stream (convo_id, event_type, payload)
values ($1, 'joined', jsonb_build_object('dids', $2::text[], 'actor', $5::text, 'generation', 1, 'epoch', $4::bigint, 'seq', $3::bigint,
                                         'welcome', $6::boolean))

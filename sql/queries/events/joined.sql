-- events/joined: somebody was added. One row for all: members see who joined, those who joined see what they are in.
-- needs: the conversation, exclusively.
-- $1 convo_id   $2 dids   $3 who added them   $4 epoch   $5 seq after which they see   $6 whether a Welcome waits for them
insert into event_stream (convo_id, event_type, payload)
values ($1, 'joined', jsonb_build_object('dids', $2::text[], 'actor', $3::text, 'epoch', $4::bigint, 'seq', $5::bigint,
                                         'welcome', $6::boolean))

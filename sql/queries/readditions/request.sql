-- readditions/request: tells the members of a conversation by one event that a member asks to be added to the group again, unless they were
-- told a short time ago or there are none. Of concurrent requests at any replicas the first one tells, because the others wait for its row
-- and find it changed. Returns the number of other members, and the id of the request; null if another request wrote it meanwhile. No row:
-- the caller is not a member.
-- $1 convo_id   $2 did   $3 identity   $4 id of a new request   $5 seconds for which a request counts   $6 fields of the event, as JSON
with caller as (
  select c.id, c.member_count, m.joined_seq from conversations c join members m on m.convo_id = c.id
   where c.id = $1 and m.member_did = $2 and m.left_at is null
), asked as (
  insert into readdition_requests as r (convo_id, identity, member_did, request_id, joined_seq, requested_at)
  select id, $3, $2, $4, joined_seq, clock_timestamp() from caller where member_count > 1
  on conflict (convo_id, identity) do update
     set request_id = case when r.joined_seq = excluded.joined_seq then r.request_id else excluded.request_id end,
         joined_seq = excluded.joined_seq, requested_at = clock_timestamp()
   where r.requested_at <= clock_timestamp() - make_interval(secs => $5) or r.joined_seq <> excluded.joined_seq
  returning convo_id, request_id, requested_at
), announced as (
  insert into event_stream (convo_id, event_type, payload)
  select convo_id, 'readditionRequested',
         $6::text::jsonb || jsonb_build_object('userDid', $2::text, 'requestId', request_id, 'requestedAt', requested_at)
    from asked
)
select member_count - 1 as others,
       coalesce((select request_id from asked),
                (select r.request_id from readdition_requests r where r.convo_id = $1 and r.identity = $3),
                case when member_count = 1 then $4 end) as request_id
  from caller

-- group_infos/request: asks the members of a conversation for its GroupInfo by one event, unless they were asked a short
-- time ago, and returns the number of members. Of concurrent requests at any replicas the first one asks, because the
-- others wait for its row and find it changed. No row: the caller is not a member.
-- $1 convo_id   $2 did   $3 seconds for which a request counts
with caller as (
  select c.id, c.current_epoch, c.member_count from conversations c join members m on m.convo_id = c.id
   where c.id = $1 and m.member_did = $2 and m.left_at is null
), asked as (
  insert into group_info_requests as r (convo_id, requested_at) select id, clock_timestamp() from caller
  on conflict (convo_id) do update set requested_at = clock_timestamp()
   where r.requested_at <= clock_timestamp() - make_interval(secs => $3)
  returning convo_id, requested_at
), announced as (
  insert into event_stream (convo_id, event_type, payload)
  select a.convo_id, 'groupInfoRequested',
         jsonb_build_object('did', $2::text, 'epoch', c.current_epoch, 'requestedAt', a.requested_at)
    from asked a join caller c on c.id = a.convo_id
)
select member_count from caller

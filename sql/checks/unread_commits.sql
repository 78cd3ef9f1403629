-- unread_commits: the bytes of a commit were deleted that an active member has not read, and not because of its age (P5)
select r.convo_id, 'commit ' || r.seq || ' is gone, and a member has read to ' || m.last_read_seq || ' only' as finding
  from retired_commits r join members m on m.convo_id = r.convo_id
 where not r.unread and m.left_at is null and m.joined_seq < r.seq and m.last_read_seq < r.seq

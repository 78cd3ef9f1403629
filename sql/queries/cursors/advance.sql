-- cursors/advance: moves the caller's cursor forward and tells its devices. An older cursor changes nothing.
-- $1 did   $2 convo_id   $3 cursor
with moved as (
  insert into cursors (user_did, convo_id, last_seen_cursor) values ($1, $2, $3)
  on conflict (user_did, convo_id) do update set last_seen_cursor = excluded.last_seen_cursor, updated_at = now()
   where cursors.last_seen_cursor collate "C" < excluded.last_seen_cursor collate "C"
  returning convo_id, user_did, last_seen_cursor
)
insert into event_stream (convo_id, recipient_did, event_type, payload)
select convo_id, user_did, 'cursor', jsonb_build_object('lastSeen', last_seen_cursor) from moved

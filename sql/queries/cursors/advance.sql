-- cursors/advance: moves the caller's cursor forward; an older one changes nothing.   $1 did   $2 convo_id   $3 cursor
insert into cursors (user_did, convo_id, last_seen_cursor) values ($1, $2, $3)
on conflict (user_did, convo_id) do update set last_seen_cursor = excluded.last_seen_cursor, updated_at = now()
 where cursors.last_seen_cursor collate "C" < excluded.last_seen_cursor collate "C"

-- convos/insert: a new conversation without members. No row: the group id is taken.
-- $1 id   $2 group_id   $3 creator   $4 cipher suite   $5 epoch it starts at
insert into conversations (id, group_id, creator_did, cipher_suite, initial_epoch, current_epoch)
values ($1, $2, $3, $4, $5, $5)
on conflict (group_id) do nothing
returning created_at

-- convos/insert: creates a conversation without members. No row: the group id is or was taken.
-- $1 id   $2 group_id   $3 creator   $4 cipher suite   $5 epoch it starts at   $6 storage model, null for the database
insert into conversations (id, group_id, creator_did, cipher_suite, initial_epoch, current_epoch, storage_model)
select $1, $2, $3, $4, $5, $5, $6
 where not exists (select from ended_groups where group_id_hash = sha256(convert_to($2, 'UTF8')))
on conflict (group_id) do nothing
returning created_at

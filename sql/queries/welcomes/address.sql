-- welcomes/address: adds the recipients of a Welcome, one row for each key package that opens it.
-- needs: the conversation, exclusively.
-- $1 ids   $2 convo_id   $3 recipients   $4 key package hashes or null   $5 welcome   $6 epoch   $7 generation
insert into welcome_messages (id, convo_id, recipient_did, key_package_hash, welcome_id, epoch, generation)
select a.id, $2, a.did, a.hash, $5, $6, $7
  from unnest($1::text[], $3::text[], $4::bytea[]) a (id, did, hash)

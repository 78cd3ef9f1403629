-- groups/reset: begins the next generation of a conversation with another MLS group: compare-and-swap of its generation and epoch, and the
-- entry of the log that shows it. The members stay; those who are not named are not in the new group. Triggers keep the group before it.
-- No row: the group id is or was taken, or the conversation is in another generation or epoch.
-- needs: the conversation, exclusively, and its row locked.
-- $1 convo_id   $2 generation   $3 epoch   $4 new group id   $5 its cipher suite   $6 epoch that it is in   $7 id of the entry
-- $8 member that resets it   $9 members who are in the new group   $10 those of them for whom a Welcome waits
with begun as (
  update conversations c
     set generation = c.generation + 1, group_id = $4, cipher_suite = $5, initial_epoch = $6, current_epoch = $6,
         last_seq = c.last_seq + 1, group_seq = c.last_seq + 1, updated_at = now()
   where c.id = $1 and c.generation = $2 and c.current_epoch = $3
     and not exists (select from conversations t where t.group_id = $4)
     and not exists (select from ended_groups t where t.group_id_hash = sha256(convert_to($4, 'UTF8')))
  returning c.generation, c.current_epoch, c.last_seq
), appended as (
  insert into messages (convo_id, seq, id, sender_did, message_type, generation, epoch, ciphertext, body_hash)
  select $1, last_seq, $7, $8, 'reset', generation, current_epoch, '', sha256('') from begun
), roster as (
  update members m set in_group = m.member_did = any($9)
    from begun where m.convo_id = $1 and m.left_at is null and m.in_group <> (m.member_did = any($9))
), unwedged as (
  delete from wedged_convos where convo_id = $1 and exists (select from begun)
), outdated as (
  -- Its epoch may be one that the new group gets to as well.
  delete from group_infos where convo_id = $1 and exists (select from begun)
), devices as (
  -- No device is in the new group but by the Welcomes that follow.
  delete from device_memberships where convo_id = $1 and addition_id is null and exists (select from begun)
), additions as (
  update device_memberships set epoch = null where convo_id = $1 and addition_id is not null and epoch is not null and exists (select from begun)
), told as (
  insert into event_stream (convo_id, event_type, payload)
  select $1, 'reset', jsonb_build_object('generation', generation, 'groupId', $4::text, 'epoch', current_epoch, 'seq', last_seq,
                                         'actor', $8::text, 'welcomed', $10::text[])
    from begun
)
select current_epoch, last_seq from begun

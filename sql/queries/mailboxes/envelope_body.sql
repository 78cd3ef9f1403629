-- mailboxes/envelope_body: returns content and destination of an envelope. No row: the entry is no longer stored, or its
-- conversation has ended. No url: the recipient has no mailbox.
-- $1 convo_id   $2 seq   $3 recipient
select m.id, m.seq, m.sender_did, m.message_type, m.generation, m.epoch, m.ciphertext, m.body_key, m.body_bytes, m.created_at, m.embed_type,
       m.embed_uri,
       b.url, b.host, b.zone, b.secret, b.member_did as mailbox_member, b.convo_id as mailbox_convo, b.updated_at as mailbox_set_at,
       b.state as mailbox_state, b.failing_since is not null as mailbox_fails, b.challenges as mailbox_challenges
  from messages m
  left join lateral (select * from mailboxes b where b.member_did = $3 and b.convo_id in ('', m.convo_id)
                      order by b.convo_id desc limit 1) b on true
 where m.convo_id = $1 and m.seq = $2
   and (select c.ended_at is null from conversations c where c.id = m.convo_id)

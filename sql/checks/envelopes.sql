-- envelopes: an envelope was or will be delivered to a DID that may not see its entry (P7)
select e.convo_id, 'envelope ' || e.id || ' holds entry ' || e.seq || ' for somebody who '
       || case when m.member_did is null then 'was never a member' else 'had left at seq ' || m.left_seq end as finding
  from envelopes e left join members m on m.convo_id = e.convo_id and m.member_did = e.recipient_did
 where m.member_did is null or e.seq > m.left_seq
union all
select e.convo_id, 'envelope ' || e.id || ' holds entry ' || e.seq || ' for its own sender'
  from envelopes e join messages m on m.convo_id = e.convo_id and m.seq = e.seq
 where m.sender_did = e.recipient_did or m.id <> e.message_id

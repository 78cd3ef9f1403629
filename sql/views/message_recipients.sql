-- message_recipients: recipients of each entry, and whether each has read past it. Derived, never stored.
create view message_recipients as
select e.id as message_id, e.convo_id, e.seq, m.member_did as recipient_did,
       case when m.last_read_seq >= e.seq then m.last_read_at end as delivered_at
  from messages e
  join members m on m.convo_id = e.convo_id and m.member_did <> e.sender_did
                and e.seq > m.joined_seq and e.seq <= coalesce(m.left_seq, e.seq);
comment on view message_recipients is 'To whom each entry belongs, and whether it has read past it; derived.';

-- mailboxes/expand: one envelope for every entry of a range and every recipient of it who has a mailbox. An entry belongs to who was
-- a member when it was written and is not its sender. Its id follows from whom and what it is for, so that it is the same
-- whenever it is made. Fewer than $3 were made: the range is done.
-- needs: the right from mailboxes/take_fan_out.   $1 from this transaction   $2 to before this one   $3 most envelopes
-- $4 era of both
with entries as materialized (
  select convo_id, seq, id, sender_did, era, tx from messages
   where tx >= $1::text::xid8 and tx < $2::text::xid8 and era = $4
), owners as materialized (
  select m.convo_id, m.member_did, m.joined_seq, m.left_seq, b.host, b.era, b.tx
    from (select distinct convo_id from entries) c
    join members m on m.convo_id = c.convo_id
   cross join lateral (select b.provider, b.host, b.era, b.tx from mailboxes b
                        where b.member_did = m.member_did and b.convo_id in ('', m.convo_id)
                        order by b.convo_id desc limit 1) b
   where b.provider = 'webhook'
), made as (
  insert into envelopes (id, convo_id, recipient_did, message_id, seq, host)
  select left(encode(sha256(convert_to(e.convo_id || ' ' || o.member_did || ' ' || e.id, 'UTF8')), 'hex'), 32),
         e.convo_id, o.member_did, e.id, e.seq, o.host
    from entries e
    join owners o on o.convo_id = e.convo_id and o.member_did <> e.sender_did
                 and e.seq > o.joined_seq and e.seq <= coalesce(o.left_seq, e.seq) and (e.era, e.tx) > (o.era, o.tx)
   where not exists (select from envelopes x
                      where x.convo_id = e.convo_id and x.recipient_did = o.member_did and x.message_id = e.id)
   limit $3
  on conflict do nothing
  returning 1
)
select count(*) as made from made

-- mailboxes/expand: makes one envelope for every entry of a range and every recipient with a mailbox, for some members
-- after a place. Recipients are the members at the time of the entry, except its sender. The id of an envelope follows
-- from its recipient and entry. A refused or suspended mailbox gets no envelope. Returns the number of envelopes and
-- the member to continue after; no member: the range is finished.
--
-- Members are read in the order of conversation and name. If there are few webhooks in total, their owners are searched
-- in the conversations instead, because otherwise one webhook would cause all rosters to be read.
-- needs: the right from mailboxes/take_fan_out.
-- $1 from this transaction   $2 to before this one   $3 era of both   $4 $5 after this conversation and member
-- $6 maximum number of members to look at   $7 maximum number of envelopes, beyond those of one member   $8 how many webhooks are few
with entries as materialized (
  select convo_id, seq, id, sender_did, era, tx from messages
   where tx >= $1::text::xid8 and tx < $2::text::xid8 and era = $3
), hooks as materialized (
  select member_did from mailboxes where provider = 'webhook' order by member_did limit $8 + 1
), few as materialized (
  select distinct member_did from hooks where (select count(*) from hooks) <= $8
), convos as materialized (
  -- As many rosters as have the members that are read. A roster is read as a whole or from the place on.
  select c.convo_id, c.entries,
         exists (select from few) or sum(v.member_count) over (order by c.convo_id) - v.member_count < $6 as chosen
    from (select convo_id, count(*) as entries from entries where convo_id >= $4 group by convo_id) c
    join conversations v on v.id = c.convo_id
), looked as materialized (
  (select c.convo_id, m.member_did, m.joined_seq, m.left_seq, c.entries
     from convos c
    cross join lateral (select m.member_did, m.joined_seq, m.left_seq from members m
                         where m.convo_id = c.convo_id and (c.convo_id > $4 or m.member_did > $5)
                         order by m.member_did limit $6) m
    where c.chosen and not exists (select from few)
    order by c.convo_id, m.member_did limit $6)
  union all
  (select c.convo_id, m.member_did, m.joined_seq, m.left_seq, c.entries
     from convos c
    cross join few f
     join members m on m.convo_id = c.convo_id and m.member_did = f.member_did
    where c.convo_id > $4 or f.member_did > $5
    order by c.convo_id, m.member_did limit $6)
), owners as materialized (
  select l.convo_id, l.member_did, l.joined_seq, l.left_seq, b.host, b.era, b.tx,
         sum(l.entries) over (order by l.convo_id, l.member_did) - l.entries as before
    from looked l
   cross join lateral (select b.provider, b.state, b.host, b.era, b.tx from mailboxes b
                        where b.member_did = l.member_did and b.convo_id in ('', l.convo_id)
                        order by b.convo_id desc limit 1) b
   where b.provider = 'webhook' and b.state in ('unverified', 'verified')
), made as (
  insert into envelopes (id, convo_id, recipient_did, message_id, seq, host)
  select left(encode(sha256(convert_to(e.convo_id || ' ' || o.member_did || ' ' || e.id, 'UTF8')), 'hex'), 32),
         e.convo_id, o.member_did, e.id, e.seq, o.host
    from owners o
    join entries e on e.convo_id = o.convo_id and o.member_did <> e.sender_did
                  and e.seq > o.joined_seq and e.seq <= coalesce(o.left_seq, e.seq) and (e.era, e.tx) > (o.era, o.tx)
   where o.before < $7
  on conflict do nothing
  returning 1
), stop as (
  -- The last member that has its envelopes, if not all owners fit; else the last member that was read, if there may be
  -- more; else the first roster that was not read.
  (select 1 as rank, convo_id, member_did from owners
    where before < $7 and exists (select from owners where before >= $7)
    order by convo_id desc, member_did desc limit 1)
  union all
  (select 2, convo_id, member_did from looked where (select count(*) from looked) = $6
    order by convo_id desc, member_did desc limit 1)
  union all
  (select 3, convo_id, '' from convos where not chosen order by convo_id limit 1)
)
select (select count(*) from made) as made, s.convo_id, s.member_did
  from (select) one left join (select convo_id, member_did from stop order by rank limit 1) s on true

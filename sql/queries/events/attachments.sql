-- events/attachments: returns the conversations of a member, each with the entry after which its stream starts: the
-- newest entry, or, with a cursor, the last entry that its snapshot saw.
-- $1 did   $2 one conversation, or null for all   $3 the end of the cursor's snapshot, or null
-- $4 its running transactions   $5 era   $6 maximum number of conversations
select m.convo_id, m.joined_seq, m.joined_at, c.last_seq,
       case when $3::bigint is null then c.last_seq
            else greatest(m.joined_seq, coalesce((select e.seq from messages e
                                                   where e.convo_id = m.convo_id
                                                     and (e.era < $5 or e.tx < $3::bigint::text::xid8 and e.tx <> all($4::text::xid8[]))
                                                   order by e.seq desc limit 1), 0)) end as position
  from members m join conversations c on c.id = m.convo_id
 where m.member_did = $1 and m.left_at is null and ($2::text is null or m.convo_id = $2)
 limit $6

-- convos/list: returns conversations of a member, newest first, and how many were found, one more than asked for
-- included. The sizes of the rosters decide which conversations make the page. Only for those it reads the time of the
-- newest message and the unread count, both among the newest entries, so that the cost does not depend on the length of
-- a log. Unread messages are counted in no order, so that PostgreSQL reads no more of them than it counts. Every ULID is less than 'Z'. With
-- one bound for all pages PostgreSQL reads the index of memberships from there; with `$2 is null or`, it reads all of a person's.
-- $1 did   $2 before this id or null   $3 maximum number of rows
-- $4 maximum number of members of all rosters of the page, unless a single one has more
-- $5 most unread messages that are counted in a conversation   $6 how many of its newest entries are looked at
with found as materialized (
  select c.id, c.generation, c.group_id, c.creator_did, c.cipher_suite, c.current_epoch, c.last_seq, c.created_at, c.member_count, c.storage_model,
         m.joined_seq, m.last_read_seq, row_number() over newest as place, sum(c.member_count) over newest as members_so_far
    from (select convo_id, joined_seq, last_read_seq from members
           where member_did = $1 and left_at is null and convo_id < coalesce($2::text, 'Z')
           order by convo_id desc limit $3::bigint + 1) m
    join conversations c on c.id = m.convo_id
  window newest as (order by m.convo_id desc)
)
select f.id, f.generation, f.group_id, f.creator_did, f.cipher_suite, f.current_epoch, f.last_seq, f.created_at, f.member_count, f.storage_model,
       (select true from wedged_convos w where w.convo_id = f.id) is true as wedged,
       n.name, n.description, (select count(*) from found) as found,
       (select e.created_at from messages e
         where e.convo_id = f.id and e.seq > greatest(f.joined_seq, f.last_seq - $6) and e.message_type = 'app'
         order by e.seq desc limit 1) as last_message_at,
       case when f.last_read_seq >= f.last_seq then 0
            else (select count(*) from (select from messages e
                                         where e.convo_id = f.id and e.seq > greatest(f.last_read_seq, f.last_seq - $6)
                                           and e.message_type = 'app' and e.sender_did <> $1
                                         limit $5) counted) end as unread_count
  from found f
  left join conversation_metadata n on n.convo_id = f.id
 where f.place <= $3 and (f.place = 1 or f.members_so_far <= $4)
 order by f.id desc

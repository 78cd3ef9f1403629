-- convos/named: returns the conversation of a member or former member that a text names, as its id or, otherwise, as its
-- present or earlier group id.
-- $1 id   $2 group id   $3 caller
select m.convo_id from (select $1::text as id union all select c.id from conversations c where c.group_id = $2
                         union all select p.convo_id from past_groups p where p.group_id = $2) named
  join members m on m.convo_id = named.id and m.member_did = $3
 order by m.convo_id <> $1 limit 1

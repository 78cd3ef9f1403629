-- messages/find_seq: returns the seq of an entry that a member may see.
-- $1 convo_id   $2 id   $3 the member's joined_seq
select seq from messages where convo_id = $1 and id = $2 and seq > $3

-- messages/list_commits: returns the commits that create a range of epochs, ascending, within a number of rows and of
-- bytes of JSON (at least one). It contains only commits after the reader's join, by this very snapshot, and nothing
-- for callers that are not members. JSON adds base64 and the names of the fields to a commit.
-- $1 convo_id   $2 did of the reader   $3 first epoch   $4 last epoch   $5 rows   $6 bytes of JSON
with page as (
  select convo_id, seq, epoch,
         octet_length(ciphertext) * 4 / 3 + 1024 as size
    from messages
   where convo_id = $1 and message_type = 'commit' and epoch between $3 and $4
     and epoch > (select joined_epoch from members where convo_id = $1 and member_did = $2 and left_at is null)
   order by epoch limit $5
), fitting as (
  select convo_id, seq from (select *, sum(size) over (order by epoch) as total from page) sized
   where total <= $6 or total = size
)
select m.seq, m.id, m.sender_did, m.epoch, m.ciphertext, m.created_at
  from messages m join fitting using (convo_id, seq)
 order by m.epoch

-- commit_order: commits of a group are not in the same order by seq and by epoch (P1, P3)
select convo_id, 'entry ' || seq || ' creates epoch ' || epoch || ' after entry ' || previous_seq || ' had created epoch '
       || previous_epoch as finding
  from (select convo_id, seq, epoch, lag(seq) over w as previous_seq, lag(epoch) over w as previous_epoch
          from commits window w as (partition by convo_id, generation order by seq)) ordered
 where epoch <> previous_epoch + 1
   -- The rows of a conversation that has ended are deleted in any order.
   and not exists (select from conversations c where c.id = convo_id and c.ended_at is not null)

-- commit_order: the order of commits by seq is not their order by epoch (P1, P3)
select convo_id, 'entry ' || seq || ' creates epoch ' || epoch || ' after entry ' || previous_seq || ' had created epoch '
       || previous_epoch as finding
  from (select convo_id, seq, epoch, lag(seq) over w as previous_seq, lag(epoch) over w as previous_epoch
          from commits window w as (partition by convo_id order by seq)) ordered
 where epoch <> previous_epoch + 1
   -- Of a conversation that has ended, rows go as they come.
   and not exists (select from conversations c where c.id = convo_id and c.ended_at is not null)

-- mailboxes/move_fan_out: records that everything before this transaction of this era is expanded.
-- needs: the right from mailboxes/take_fan_out.
-- $1 era   $2 transaction
update fan_out
   set era = $1, below = $2::text::xid8,
       place_below = null, place_high = null, place_era = null, place_next = null, place_convo = null, place_member = null
 where (era, below) < ($1, $2::text::xid8)

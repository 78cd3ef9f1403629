-- mailboxes/place_fan_out: records that the range is expanded for all members up to this one.
-- needs: the right from mailboxes/take_fan_out.
-- $1 from this transaction   $2 to before this one   $3 $4 era and transaction to go on at   after it
-- $5 $6 conversation and member
update fan_out
   set below = $1::text::xid8, place_below = $1::text::xid8, place_high = $2::text::xid8, place_era = $3, place_next = $4::text::xid8,
       place_convo = $5, place_member = $6

-- mailboxes/move_fan_out: everything before this transaction is expanded.
-- needs: the right from mailboxes/take_fan_out.   $1 transaction
update fan_out set below = $1::text::xid8 where below < $1::text::xid8

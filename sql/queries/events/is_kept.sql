-- events/is_kept: whether what a transaction wrote is there still, or was deleted in order. Between what a standby lacked and the floor of
-- the next incarnation ids may have been used up by who writes nothing here.
-- $1 the transaction   $2 era
select $1 = 0 or $1 < (select tx::text::bigint from event_horizon)
       or exists (select from messages where tx = $1::bigint::text::xid8 and era = $2)
       or exists (select from event_stream where tx = $1::bigint::text::xid8 and era = $2) as is_kept

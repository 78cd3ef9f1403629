-- events/is_kept: returns whether the rows of a transaction still exist, or were deleted in order. Between the end of a
-- standby's log and the floor of the next incarnation, ids may have been used by transactions that wrote nothing here.
-- $1 the transaction   $2 era
select $1 = 0 or $1 < (select tx::text::bigint from event_horizon)
       or exists (select from messages where tx = $1::bigint::text::xid8 and era = $2)
       or exists (select from event_stream where tx = $1::bigint::text::xid8 and era = $2) as is_kept

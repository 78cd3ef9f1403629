-- erasure/hold_fan_out: waits until no replica expands the log into envelopes, and keeps them from it until the transaction ends.
select 1 as held from fan_out for update

-- schema/clock: what time it is, by the clock that decides what is old.
select clock_timestamp() as now

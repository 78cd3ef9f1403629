-- schema/clock: returns the time of the clock that decides what is old.
select clock_timestamp() as now

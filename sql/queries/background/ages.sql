-- background/ages: returns the time since the last finished pass and the number of items set aside, for each kind of
-- sweep.
select s.job, extract(epoch from clock_timestamp() - coalesce(greatest(s.last_finished_at, s.finished_at), s.since))::float8 as age,
       (select count(*) from set_aside a where a.work = s.job) as aside
  from sweeps s

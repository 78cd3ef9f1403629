-- background/ages: for each kind of sweep, how long ago a pass came to its end, and how much is set aside.
select s.job, extract(epoch from clock_timestamp() - coalesce(greatest(s.last_finished_at, s.finished_at), s.since))::float8 as age,
       (select count(*) from set_aside a where a.work = s.job) as aside
  from sweeps s

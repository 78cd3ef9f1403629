-- What work in the background remembers: how far a pass has come, when one last ended, and what it leaves out because it fails.

alter table sweeps
  add column place text,                                -- where the running pass goes on: a page, or after a conversation's id
  add column moved_at timestamptz,                      -- when it last said so; long ago: its replica died, and any other goes on
  add column last_finished_at timestamptz,              -- when a pass last came to its end; finished_at is null while the next one runs
  add column since timestamptz not null default now();  -- from when on the first pass is waited for

-- What fails by itself, however little is taken on at a time. It is left out until its time comes, so that it stops nothing else.
create table set_aside (
  work       text not null,                             -- the job
  item       text not null,                             -- a page of the job's table, or a conversation's id
  failures   integer not null default 1,
  last_error text not null,
  since      timestamptz not null default now(),
  retry_at   timestamptz not null,
  constraint set_aside_pkey primary key (work, item),
  constraint set_aside_failures_check check (failures > 0)
);

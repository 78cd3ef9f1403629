-- Which life of the database this is.
--
-- PostgreSQL gives transaction ids out again after a crash, a promotion, a recovery to a point in time, and a dump that was restored
-- elsewhere. An incarnation is a time in which it surely did not. Whoever writes or reads by transaction ids makes sure first that the
-- present one is known (present_incarnation), and begins the next one if it is not (renew_incarnation).

create table incarnations (
  id                integer not null,                   -- one after the other
  era               integer not null,                   -- the incarnation that this numbering of transactions began with: after a crash the
                                                        -- numbers go on, in another database they mean something else
  floor             xid8 not null,                      -- nothing was written in it by transactions below
  cursor_key        bytea not null,                     -- seals the cursors that are given out in it
  system_identifier bigint not null,                    -- of the cluster, as initdb made it
  timeline          integer not null,                   -- a promotion and a recovery to a point in time begin another
  database_oid      oid not null,                       -- a copy of the database has another
  table_oid         oid not null,                       -- of incarnation_witness: a table that a dump has made has another
  since             timestamptz not null default now(),
  constraint incarnations_pkey primary key (id),
  constraint incarnations_era_check check (id >= 1 and era between 1 and id),
  constraint incarnations_key_check check (length(cursor_key) = 32)
);

-- That the newest incarnation is the present one. A crash and a promotion empty an unlogged table. A dump and a copy of the files bring
-- the row along, but not the start of the server or the file of the table (which has the database's oid in its name) that it was
-- written under.
create unlogged table incarnation_witness (
  only_row    boolean not null default true,
  incarnation integer not null,
  started     timestamptz not null,
  file        text not null,
  constraint incarnation_witness_pkey primary key (only_row),
  constraint incarnation_witness_only_row_check check (only_row)
);

-- No row: the present incarnation has not begun yet.
create view present_incarnation as
select i.id, i.era, i.floor, i.cursor_key
  from incarnation_witness w join incarnations i on i.id = w.incarnation
 where w.started = pg_postmaster_start_time() and w.file = pg_relation_filepath(w.tableoid);

-- The era of a row's tx. Rows of an older one are older than all rows of the present one, whatever their numbers say. What was
-- written before there were eras may be of any cluster.
alter table messages      add column era integer not null default 0;
alter table event_stream  add column era integer not null default 0;
alter table mailboxes     add column era integer not null default 0;
alter table fan_out       add column era integer not null default 0;
alter table event_horizon add column era integer not null default 0;

-- Begins the next incarnation, unless the present one is known by now. Gives the present one.
create function renew_incarnation() returns integer language plpgsql as $$
declare
  present integer;
  before  incarnations;
  after   incarnations;
begin
  -- One replica at a time. Each statement after this one sees what the one before has committed.
  perform pg_advisory_xact_lock(hashtextextended('catbird-server/incarnation', 2));
  select id into present from present_incarnation;
  if present is not null then
    return present;
  end if;
  select * into before from incarnations order by id desc limit 1;
  after.id := coalesce(before.id, 0) + 1;
  -- The next id. A replica of the version before the first may have a lower one already, and write when the tables are there for it.
  after.floor := case when before.id is null then pg_snapshot_xmin(pg_current_snapshot())
                      else pg_snapshot_xmax(pg_current_snapshot()) end;
  after.cursor_key := sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8'));
  after.system_identifier := (select system_identifier from pg_control_system());
  after.timeline := ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer;
  after.database_oid := (select oid from pg_database where datname = current_database());
  after.table_oid := 'incarnation_witness'::regclass;
  after.since := clock_timestamp();
  after.era := case
    when (before.system_identifier, before.database_oid, before.table_oid)
       = (after.system_identifier, after.database_oid, after.table_oid) then before.era
    else after.id
  end;
  insert into incarnations select after.*;
  delete from incarnation_witness;
  insert into incarnation_witness (incarnation, started, file)
  values (after.id, pg_postmaster_start_time(), pg_relation_filepath('incarnation_witness'));
  if after.era = after.id then
    -- A constant costs those who insert nothing.
    execute format('alter table messages     alter column era set default %s', after.era);
    execute format('alter table event_stream alter column era set default %s', after.era);
    execute format('alter table mailboxes    alter column era set default %s', after.era);
    -- Nothing of this era has been deleted, and no cursor of another is taken.
    update event_horizon set tx = '0', era = after.era;
  end if;
  return after.id;
end $$;

-- Rows of another era take no cursor with them: everybody who has one of this era was past them when it began.
create or replace function move_event_horizon() returns trigger language plpgsql as $$
begin
  -- There is no max(xid8) before PostgreSQL 18.
  update event_horizon h set tx = d.tx
    from (select (g.tx::text::bigint + 1)::text::xid8 as tx from gone g
           where g.era = (select era from event_horizon) order by g.tx desc limit 1) d
   where h.tx < d.tx;
  return null;
end $$;

select renew_incarnation();

-- crash_witness (V005) is only there for replicas of the version before this one.

-- Autovacuum of the tables that change most. Run it as the owner after the first migration; it may be repeated, and migrations leave
-- it as it is. By default a table is vacuumed when a fifth of its rows are dead, which is late for a table that is read all the time.

-- One update for each accepted entry. Updates stay on their page while dead rows there are removed in time.
alter table conversations set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
-- Read positions.
alter table members set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
-- Quotas: some updates of few rows each second.
alter table allowances set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
-- Envelopes change state up to sixteen times, and are deleted.
alter table envelopes set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
-- Rows that are inserted and deleted as a whole by retention. A vacuum also sets the visibility map, so that scans of the index alone
-- stay cheap while rows are only inserted.
alter table messages set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_insert_scale_factor = 0.02);
alter table idempotency_records set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
alter table event_stream set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
-- Uploaded, issued, used.
alter table key_packages set (autovacuum_vacuum_scale_factor = 0.05);

-- tx/hanging: returns whether any COMMIT of this role has been waiting for longer than a replica waits for its reply:
-- for a standby, or for a disk (PostgreSQL manual 28.2.3, pg_stat_activity).
-- $1 seconds
select exists (select from pg_stat_activity
                where usename = current_user and state = 'active' and query = 'commit'
                  and query_start < clock_timestamp() - make_interval(secs => $1)) as hanging

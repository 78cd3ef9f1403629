-- replicas/list: returns the replicas that were alive a moment ago, in the order of their start.
-- $1 seconds
select id, version, role, connections, settings from replicas
 where seen_at > clock_timestamp() - make_interval(secs => $1) order by started_at, id

-- replicas/without_setting: returns whether a replica was alive a moment ago whose build does not know a setting.
-- $1 seconds   $2 setting
select exists (select from replicas where seen_at > clock_timestamp() - make_interval(secs => $1) and not settings ? $2) as found

-- schema/version: the newest migration that was applied; 0 before any.
select coalesce(max(version), 0)::bigint as version from refinery_schema_history

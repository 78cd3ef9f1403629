-- schema/version: the newest migration that was applied; 0 before any.   needs: schema/exists
select coalesce(max(version), 0)::bigint as version from refinery_schema_history

-- schema/version: returns the newest applied migration, or 0.
-- needs: schema/exists
select coalesce(max(version), 0)::bigint as version from refinery_schema_history

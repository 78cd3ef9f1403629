-- doctor/history: returns the applied migrations, in order.
-- needs: schema/exists
select version::int8 as version, name::text as name, checksum::text as checksum from refinery_schema_history order by version

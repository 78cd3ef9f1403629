-- schema/exists: whether any migration was ever applied. Asking a table that is not there is an error.
select to_regclass('refinery_schema_history') is not null as is_there

-- schema/exists: whether any migration was ever applied, of which asking a table that is not there would be an error; and whether this
-- server only reads, as a standby does, or one that was told to (PostgreSQL manual 20.11.1, default_transaction_read_only).
select to_regclass('refinery_schema_history') is not null as is_there, current_setting('transaction_read_only')::boolean as read_only

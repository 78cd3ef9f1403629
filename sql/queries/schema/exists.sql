-- schema/exists: returns whether any migration was ever applied, since reading a missing table would be an error; and
-- whether this server is read-only, as a standby is (PostgreSQL manual 20.11.1, default_transaction_read_only).
select to_regclass('refinery_schema_history') is not null as is_there, current_setting('transaction_read_only')::boolean as read_only

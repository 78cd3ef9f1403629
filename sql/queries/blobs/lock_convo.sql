-- blobs/lock_convo: locks the beginning of uploads for a conversation until the end of the transaction. Seed 5 keeps it apart from other
-- locks; a row may not be there yet.
-- $1 convo_id
select 1 as locked from pg_advisory_xact_lock(hashtextextended($1, 5))

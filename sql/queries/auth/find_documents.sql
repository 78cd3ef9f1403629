-- auth/find_documents: returns the stored documents of these DIDs.
-- $1 dids
select did, account_key, fetched_at from did_documents where did = any ($1)

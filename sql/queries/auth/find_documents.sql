-- auth/find_documents: what is kept of these DIDs' documents.   $1 dids
select did, account_key, fetched_at from did_documents where did = any ($1)

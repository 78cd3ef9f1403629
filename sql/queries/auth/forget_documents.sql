-- auth/forget_documents: deletes the documents of DIDs that the directory no longer knows.
-- $1 dids
with gone as (
  select did from did_documents where did = any ($1) order by did for update
)
delete from did_documents d using gone where d.did = gone.did

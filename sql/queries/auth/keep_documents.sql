-- auth/keep_documents: stores documents, except those with a newer stored version. All replicas lock rows in one order,
-- so that they cannot deadlock.
-- In step, no DID twice: $1 dids   $2 keys   $3 times of the fetch
insert into did_documents (did, account_key, fetched_at)
select did, account_key, fetched_at from unnest($1::text[], $2::text[], $3::timestamptz[]) d (did, account_key, fetched_at)
 order by did
on conflict (did) do update set account_key = excluded.account_key, fetched_at = excluded.fetched_at
 where did_documents.fetched_at < excluded.fetched_at

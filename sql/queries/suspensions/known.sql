-- suspensions/known: returns DIDs that have called, in order.
-- $1 after this one   $2 maximum number of rows
select did from did_documents where did > $1 order by did limit $2

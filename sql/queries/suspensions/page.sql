-- suspensions/page: returns suspended DIDs in order.
-- $1 after this one   $2 maximum number of rows
select did from suspensions where did > $1 order by did limit $2

-- welcomes/insert: stores the bytes of a Welcome.
-- $1 id   $2 bytes
insert into welcomes (id, welcome) values ($1, $2)

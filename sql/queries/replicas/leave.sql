-- replicas/leave: deletes the row of a replica that stops.
-- $1 id
delete from replicas where id = $1

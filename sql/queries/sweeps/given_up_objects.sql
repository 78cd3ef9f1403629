-- sweeps/given_up_objects: returns objects whose bytes are to be deleted, in the order of their names.
-- $1 after this name   $2 maximum number
select name from blob_deletions where name > $1 order by name limit $2

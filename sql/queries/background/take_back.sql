-- background/take_back: removes items that did not fail this time.
-- $1 work   $2 items
delete from set_aside where work = $1 and item = any($2)

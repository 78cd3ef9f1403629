-- sweeps/used_tokens: empties a slot of used tokens if they have long been dead.   $1 slot
select case when empty_used_tokens($1) then 1 else 0 end::bigint as deleted

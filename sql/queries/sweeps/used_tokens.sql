-- sweeps/used_tokens: empties a slot of used tokens if they expired long ago.
-- $1 slot
select case when empty_used_tokens($1) then 1 else 0 end::bigint as deleted

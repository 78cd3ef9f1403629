-- sweeps/unopened: locks and returns the recipients of old Welcomes, so that a member that opens one has done so
-- before, or does not find it. All recipients of a Welcome are as old as it is, and it never gets another.
-- $1 first tid   $2 tid after the last   $3 made before this   $4 bytes, after which no further Welcome is taken
with old as materialized (
  select id, sum(octet_length(welcome)) over (order by id) - octet_length(welcome) as before from welcomes
   where ctid >= $1::text::tid and ctid < $2::text::tid and created_at < $3
)
select a.id, a.welcome_id, (select count(*) from old where before >= $4) > 0 as more
  from welcome_messages a
 where a.welcome_id in (select id from old where before < $4)
 order by a.id for update

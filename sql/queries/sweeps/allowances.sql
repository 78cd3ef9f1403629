-- sweeps/allowances: deletes accounts whose window has ended. Accounts in use are left to the next pass: settlements
-- lock accounts in an order of their own (allowances/settle), so this must not wait for one while it has another.
-- $1 first tid   $2 tid after the last   $3 over before this
with over as materialized (
  select quota, key from allowances where ctid >= $1::text::tid and ctid < $2::text::tid and ends_at < $3 for update skip locked
), gone as (
  delete from allowances a using over where a.quota = over.quota and a.key = over.key returning 1
)
select count(*) as deleted from gone

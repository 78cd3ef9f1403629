-- sweeps/withdraw: deletes the recipients of Welcomes.
-- $1 welcome ids
with gone as (delete from welcome_messages where welcome_id = any($1) and state = 'available' returning 1)
select count(*) as deleted from gone

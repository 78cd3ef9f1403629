-- welcomes/lock_recipients: locks all recipients of Welcomes, so that of transactions that delete some of them the last one finds none left,
-- and deletes the bytes.
-- $1 welcome ids
select 1 as locked from welcome_messages where welcome_id = any($1) order by id for update

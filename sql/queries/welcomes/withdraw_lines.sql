-- welcomes/withdraw_lines: deletes recipients of Welcomes that were not opened.
-- needs: the recipients (welcomes/lock_recipients).
-- $1 ids of the recipients' rows
delete from welcome_messages where id = any($1) and state = 'available'

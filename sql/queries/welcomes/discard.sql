-- welcomes/discard: deletes the bytes of Welcomes without waiting recipients.
-- $1 welcome ids
delete from welcomes w where w.id = any($1)
   and not exists (select from welcome_messages a where a.welcome_id = w.id)

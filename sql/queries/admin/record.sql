-- admin/record: records a stage of an operator's command.
-- $1 run   $2 begun or finished   $3 command   $4 target   $5 reason   $6 user of the operating system   $7 host   $8 counts or null
insert into admin_audit (run, stage, command, target, reason, os_user, host, counts) values ($1, $2, $3, $4, $5, $6, $7, $8)

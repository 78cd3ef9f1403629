-- admin/list_audit: returns the latest runs of operators' commands, the latest first.
-- $1 target, or null for all   $2 maximum number of rows
select b.at, b.command, b.target, b.reason, b.os_user, b.host, b.db_role, f.counts::text as counts
  from admin_audit b left join admin_audit f on f.run = b.run and f.stage = 'finished'
 where b.stage = 'begun' and ($1::text is null or b.target = $1)
 order by b.id desc limit $2

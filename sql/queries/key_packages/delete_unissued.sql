-- key_packages/delete_unissued: deletes retired packages that were never issued. A last-resort package may have been.
-- $1 owner   $2 hashes
delete from key_packages
 where hash = any($2) and owner_did = $1 and retired_at is not null and not last_resort
   and claimed_by is null and consumed_at is null

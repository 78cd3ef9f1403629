-- Members are told of devices that are registered or deleted from here on. Of devices that an earlier build has registered, nothing is told:
-- their clients have been added already, or come back by themselves.
update devices set announced_to = null where announced_to is not null and deleted_at is null;

-- A last-resort package of a deleted device counts as used, so that no commit can use it. Rows that are there satisfied the narrower check,
-- so none is read.
alter table key_packages
  drop constraint key_packages_last_resort_check,
  add constraint key_packages_last_resort_check
    check (not last_resort or (claimed_by is null and (consumed_at is null or retired_at is not null))) not valid;

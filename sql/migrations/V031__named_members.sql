-- Members that are on the roster and not yet in the MLS group: named by createConvo without a Welcome, or by addMembers without a commit.
-- A commit brings such a member into the group, once.

alter table members
  add column in_group boolean not null default true;    -- false: named on the roster, and no commit has brought it into the group

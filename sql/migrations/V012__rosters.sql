-- How many members a conversation has, and which version of its roster that is. By itself, because it keeps everybody from the table,
-- if only for a moment; V013 fills the columns.

alter table conversations
  add column member_count bigint not null default 0,    -- active members
  add column roster_version bigint not null default 0;  -- moves whenever somebody joins or leaves

-- Roles: one that owns the tables and applies migrations, and one of the application that only reads and writes rows.
-- A role of the application that owns no table runs these two with the owner's rights: the first changes the default of a column when a
-- restored database begins another era, the second empties a table.
alter function renew_incarnation() security definer set search_path from current;
alter function empty_used_tokens(integer) security definer set search_path from current;

-- Who was ever in a conversation that it is a member of, so that this does not end as one that nobody comes back to: it opened its Welcome, or
-- it wrote something that is not kept any more. Who read is known by last_read_at. Whoever is a member already counts as having been there:
-- nobody has noted it.
alter table members add column was_there boolean not null default true;
alter table members alter column was_there set default false;

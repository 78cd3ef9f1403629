-- Every request writes a nonce, and only the sweeper asks for their age. Rows lie in the order in which they came, so the ends of
-- each range of pages tell it enough, at a fraction of what keeping a tree costs each request.

drop index auth_nonces_age_idx;
create index auth_nonces_age_idx on auth_nonces using brin (expires_at) with (pages_per_range = 16);

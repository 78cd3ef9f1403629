-- What was used of quotas: bytes, conversations, invitations, key packages. Unlogged, because it is written each second and is worth no
-- flush of the log: after a crash or a failover every window begins anew, which is at most one quota more for each.

create unlogged table allowances (
  quota   text        not null,                         -- what is counted, see src/quotas
  key     bytea       not null,                         -- whose: a hash of one or two DIDs
  used    bigint      not null,                         -- in this window, by all replicas
  ends_at timestamptz not null,                         -- when the window is over
  constraint allowances_pkey primary key (quota, key)
) with (fillfactor = 50);                               -- every second at best, and the update stays on the page

-- What is known of DIDs whose tokens were genuine, so that a replica that has just started asks the directory for none of them, and
-- strangers who name others do not stand before them.

create table did_documents (
  did         text        not null,
  account_key text        not null,                     -- the key that signs for the account, as publicKeyMultibase has it
  fetched_at  timestamptz not null,                     -- when the document said so, by the clock of the replica that asked
  constraint did_documents_pkey primary key (did)
) with (fillfactor = 80);                               -- fetched_at moves, and its update stays on the page

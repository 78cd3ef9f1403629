-- By what name the log speaks of a caller: a keyed hash of its DID, the same at all replicas, and nobody's who has only the log.

create table caller_names (
  only_row boolean not null default true,
  key      bytea   not null default sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')),
  constraint caller_names_pkey primary key (only_row),
  constraint caller_names_only_row_check check (only_row)
);

insert into caller_names default values;

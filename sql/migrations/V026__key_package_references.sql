-- What a Welcome calls a key package by, so that each recipient can be given its own part of it.

alter table key_packages
  add column reference bytea;                           -- KeyPackageRef (RFC 9420, section 5.2); null if it was published before this column

-- key_packages/references: returns the references by which Welcomes name key packages, null where one is not known.
-- $1 hashes
select reference from key_packages where hash = any($1)

-- doctor/collation: returns the version of the database's collation that its indexes were built with, and the one that the
-- system has now; nulls if the collation has no versions.
-- needs: PostgreSQL 15
select datcollversion as built, pg_database_collation_actual_version(oid) as present from pg_database where datname = current_database()

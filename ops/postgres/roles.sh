#!/bin/sh
# Creates the database and the roles of roles.sql, with their passwords. It runs when compose.yaml creates a new cluster, and may be
# repeated: docker compose exec postgres sh /docker-entrypoint-initdb.d/roles.sh, for changed passwords or a database that another role
# owns.
#
# No role of the server is a superuser, so an SQL injection in the server could not start programs or read files. The superuser loses its
# password and can connect only through the socket in the container: docker compose exec postgres psql -U postgres catbird
set -eu

sql() { psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" "$@"; }

sql --dbname=postgres <<'SQL'
select 'create database catbird' where not exists (select from pg_database where datname = 'catbird') \gexec
SQL
sql --dbname=catbird --file=/roles.sql --file=- <<'SQL'
select 'reassign owned by catbird to catbird_owner', 'drop owned by catbird', 'drop role catbird' where to_regrole('catbird') is not null \gexec
\getenv owner POSTGRES_OWNER_PASSWORD
\getenv application POSTGRES_PASSWORD
alter role catbird_owner password :'owner';
alter role catbird_app password :'application';
alter role current_user password null;
SQL

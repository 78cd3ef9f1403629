#!/bin/sh
# Runs once, when compose.yaml creates a new cluster. The server gets a role that owns its database and is not a superuser, so an SQL
# injection in the server could not start programs or read files. The superuser loses its password and can connect only through the
# socket in the container: docker compose exec postgres psql -U postgres
set -eu

psql --no-psqlrc -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv password POSTGRES_PASSWORD
create role catbird login nosuperuser nocreatedb nocreaterole password :'password';
create database catbird owner catbird;
alter role current_user password null;
SQL

#!/bin/sh
# What the entry point of the official image of PostgreSQL does with the variables that compose.yaml sets: creates the cluster, runs the
# scripts of /docker-entrypoint-initdb.d without a network, and starts PostgreSQL.
set -eu

if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    passwords=$(mktemp)
    printf '%s\n' "$POSTGRES_PASSWORD" >"$passwords"
    # Several arguments.
    # shellcheck disable=SC2086
    initdb --username="$POSTGRES_USER" --pwfile="$passwords" --auth-local=trust --auth-host=scram-sha-256 $POSTGRES_INITDB_ARGS
    rm "$passwords"
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    pg_ctl --wait -o "-c listen_addresses='' -c unix_socket_directories=/var/run/postgresql" start
    for script in /docker-entrypoint-initdb.d/*.sh; do
        sh "$script"
    done
    pg_ctl --wait --mode=fast stop
fi
exec "$@"

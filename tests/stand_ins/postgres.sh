#!/bin/bash
# As the official image documents it: at the first start a cluster of POSTGRES_USER with POSTGRES_PASSWORD, asked for by
# whoever comes over TCP, and the database POSTGRES_DB; then the server itself, as the user postgres.
set -euo pipefail
if [ "$(id -u)" -eq 0 ]; then
  chown -R postgres "$PGDATA"
  exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD")
  printf '%s\n' 'local all all trust' 'host all all all scram-sha-256' >"$PGDATA/pg_hba.conf"
  pg_ctl --wait --options="-c listen_addresses=''" start # heard by this script alone
  createdb --username="$POSTGRES_USER" --maintenance-db=postgres "$POSTGRES_DB"
  pg_ctl --wait --mode=fast stop
fi
exec "$@"

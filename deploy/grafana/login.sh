#!/bin/sh
# Make the login `grafana`, which reads `api` of every ESCO and writes nothing, or give it its
# present password.
set -eu
psql -X -v ON_ERROR_STOP=1 "$(cat /run/secrets/database_admin_url)" \
    -v password="$(cat /run/secrets/grafana_database_password)" <<'SQL'
select 'create role grafana login noinherit'
where not exists (select from pg_roles where rolname = 'grafana')
\gexec
alter role grafana password :'password';
grant grafanareader to grafana;
alter role grafana set role = grafanareader;
alter role grafana set search_path = api;
SQL

#!/bin/sh
# Write the secrets of a deployment into a folder (secrets/), a file each, once: a file that exists is
# kept. The second word is the database's host (database). The folder is the owner's alone; its files
# are readable by the containers' users.
set -eu
umask 077
folder=${1:-secrets}
host=${2:-database}
mkdir -p "$folder"

secret() { # FILE TEXT: write a file unless it exists
    [ -e "$folder/$1" ] || { printf '%s' "$2" > "$folder/$1" && chmod 444 "$folder/$1"; }
}
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
kept() { cat "$folder/$1"; }

for name in database_admin_password gateway_password authenticator_password \
    grafana_admin_password grafana_database_password redis_password; do
    secret "$name" "$(random)"
done
secret database_admin_url "postgresql://postgres:$(kept database_admin_password)@$host/flows"
secret database_url "postgresql://flows_gateway:$(kept gateway_password)@$host/flows"
secret postgrest_database_url \
    "postgresql://authenticator:$(kept authenticator_password)@$host/flows"
secret limits_url "redis://flows:$(kept redis_password)@redis:6379"
# Anybody may PING, as the health check does; the gateways may do all but administer.
secret redis_acl "user default on nopass nocommands +ping
user flows on >$(kept redis_password) ~* &* +@all -@admin -@dangerous"

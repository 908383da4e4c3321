#!/bin/sh
# Back up a PostgreSQL server to S3-compatible storage, encrypted there, and restore it, with Barman's
# programs for clouds (barman-cli-cloud). It runs as the server's user, on its machine.
#
#   object-storage.sh archive PATH            archive_command: 'object-storage.sh archive %p'
#   object-storage.sh fetch NAME PATH         restore_command, which `restore` writes
#   object-storage.sh backup                  a full backup; the login by PGHOST, PGUSER, …
#   object-storage.sh list
#   object-storage.sh restore FOLDER BACKUP [TIME]
#                                             one of the list into an empty folder, and from its end
#                                             to that of the archive, or to a moment
#   object-storage.sh prune                   what no kept moment needs
#   object-storage.sh check                   before the first: no other server archives there
#
# Settings, from the environment or /etc/flows/object-storage.env (FLOWS_OBJECT_STORE_FILE):
#   FLOWS_OBJECT_STORE             s3://bucket/folder
#   FLOWS_OBJECT_STORE_ENDPOINT    URL of the storage, if it is not Amazon's
#   FLOWS_OBJECT_STORE_SERVER      name of the server in the folder (database)
#   FLOWS_OBJECT_STORE_KMS_KEY     a key of the storage's key service, instead of its own
#   FLOWS_OBJECT_STORE_KEEP_DAYS   days for which any moment can be restored (30)
# and AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and others that Amazon's programs read.
set -eu
file=${FLOWS_OBJECT_STORE_FILE:-/etc/flows/object-storage.env}
if [ -r "$file" ]; then
    set -a
    # shellcheck source=/dev/null
    . "$file"
    set +a
fi
store=${FLOWS_OBJECT_STORE:?s3://bucket/folder is missing}
server=${FLOWS_OBJECT_STORE_SERVER:-database}
self=$(realpath "$0")

barman() { # PROGRAM WORDS…: run one of Barman's programs on the storage
    program=$1
    shift
    [ -z "${FLOWS_OBJECT_STORE_ENDPOINT:-}" ] || set -- --endpoint-url "$FLOWS_OBJECT_STORE_ENDPOINT" "$@"
    "barman-cloud-$program" "$@"
}
encrypted() { # PROGRAM WORDS…: as barman, for what writes
    program=$1
    shift
    if [ -n "${FLOWS_OBJECT_STORE_KMS_KEY:-}" ]; then
        barman "$program" --encryption aws:kms --sse-kms-key-id "$FLOWS_OBJECT_STORE_KMS_KEY" "$@"
    else
        barman "$program" --encryption AES256 "$@"
    fi
}

case ${1:-} in
archive) encrypted wal-archive --gzip "$store" "$server" "$2" ;;
fetch) barman wal-restore "$store" "$server" "$2" "$3" ;;
backup) encrypted backup --gzip --immediate-checkpoint "$store" "$server" ;;
restore)
    barman restore "$store" "$server" "${3:?name a backup of the list}" "$2"
    {
        echo "restore_command = '$self fetch %f \"%p\"'"
        echo "recovery_target_action = promote"
        [ -z "${4:-}" ] || echo "recovery_target_time = '$4'"
    } >> "$2/postgresql.auto.conf"
    touch "$2/recovery.signal"
    ;;
list) barman backup-list "$store" "$server" ;;
check) barman check-wal-archive "$store" "$server" ;;
prune)
    days=${FLOWS_OBJECT_STORE_KEEP_DAYS:-30}
    barman backup-delete --retention-policy "RECOVERY WINDOW OF $days DAYS" "$store" "$server"
    ;;
*) sed -n '2,/^set -eu/ s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac

#!/usr/bin/env bash
# restore.sh FOLDER/<UTC time>: a backup of backup.sh, with the same variables, into empty databases and an empty store. Nothing is
# overwritten: what is there is moved away by hand first. SQLite keeps absolute paths: restore to the path it came from.
set -euo pipefail
umask 077

source=$(cd "${1:?usage: restore.sh FOLDER/TIME}" && pwd)
home=${RLHF_HOME:-.rlhf}

refuse() { echo "$1; nothing was changed" >&2; exit 2; }
case $source in *.partial) refuse "$source was cut off while it was made" ;; esac
(cd "$source" && sha256sum --check --quiet --strict SHA256SUMS) || refuse "$source is damaged"

pg() { # PROGRAM ARGS, as the database's administrator
    local program=$1
    shift
    # shellcheck disable=SC2086 # a command and its words
    $RLHF_PG "$program" --username="${RLHF_PG_USER:-postgres}" "$@"
}

if [ -n "${RLHF_PG+server}" ]; then
    for database in ${RLHF_PG_DATABASES:-mlflow prefect}; do
        [ -e "$source/$database.dump" ] || refuse "$source holds no $database.dump"
        tables=$(pg psql --dbname="$database" --no-psqlrc --tuples-only --no-align \
            --command="SELECT count(*) FROM pg_tables WHERE schemaname = 'public'" </dev/null)
        [ "$tables" = 0 ] || refuse "database $database holds $tables tables, expected none"
    done
    if [ -n "${RLHF_OBJECTS:-}" ]; then
        $RLHF_OBJECTS restore <"$source/artifacts.tar"
    else
        folder=${RLHF_ARTIFACTS:?name the folder of the artifacts}
        [ -z "$(ls -A "$folder" 2>/dev/null)" ] || refuse "$folder is not empty"
        mkdir -p "$folder"
        tar --extract --file="$source/artifacts.tar" --directory="$folder"
    fi
    for database in ${RLHF_PG_DATABASES:-mlflow prefect}; do
        pg pg_restore --dbname="$database" --exit-on-error --single-transaction <"$source/$database.dump"
    done
else
    [ -e "$source/mlflow.db" ] || refuse "$source holds no mlflow.db; set RLHF_PG for a server's backup"
    for name in mlflow.db prefect/prefect.db mlartifacts outbox approvals sweeps reports; do
        [ ! -e "$home/$name" ] || refuse "$home/$name exists"
    done
    mkdir -p "$home/prefect"
    tar --extract --file="$source/artifacts.tar" --directory="$home"
    [ ! -e "$source/prefect.db" ] || cp "$source/prefect.db" "$home/prefect/prefect.db"
    cp "$source/mlflow.db" "$home/.mlflow.db.partial"
    mv "$home/.mlflow.db.partial" "$home/mlflow.db"
fi
echo "restored $source"

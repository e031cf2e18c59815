#!/usr/bin/env bash
# backup.sh FOLDER: both databases, then the artifacts, into FOLDER/<UTC time>. A finished backup has its name; a cut-off one ends
# in .partial. Databases come first: what is written meanwhile is in the artifacts and not in a database, never the other way.
#
# A laptop:  RLHF_HOME (default .rlhf): MLflow's and Prefect's SQLite files, artifacts and records.
# A server:  RLHF_PG, what stands before pg_dump (may be empty), e.g. 'docker compose -f infra/compose.yaml exec -T postgres';
#            RLHF_PG_USER (default postgres); RLHF_PG_DATABASES (default 'mlflow prefect'; of rlhf up --database 'rlhf_mlflow
#            rlhf_prefect'); and the artifacts: RLHF_ARTIFACTS, a folder, or RLHF_OBJECTS, a command that takes
#            'save' and writes a tar file to standard output (infra/objects.py for S3).
set -euo pipefail
umask 077

parent=${1:?usage: backup.sh FOLDER}
target=$parent/$(date -u +%Y%m%dT%H%M%SZ)
partial=$target.partial
home=${RLHF_HOME:-.rlhf}
mkdir -p "$parent"
mkdir "$partial"

sqlite_copy() { # FROM TO: consistent while others write
    python3 -c 'import sqlite3, sys
source, target = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True), sqlite3.connect(sys.argv[2])
source.backup(target)
target.close()' "$1" "$2"
}

if [ -n "${RLHF_PG+server}" ]; then
    for database in ${RLHF_PG_DATABASES:-mlflow prefect}; do
        # shellcheck disable=SC2086 # a command and its words
        $RLHF_PG pg_dump --username="${RLHF_PG_USER:-postgres}" --format=custom "$database" >"$partial/$database.dump"
    done
    if [ -n "${RLHF_OBJECTS:-}" ]; then
        $RLHF_OBJECTS save >"$partial/artifacts.tar"
    else
        tar --create --file="$partial/artifacts.tar" --directory="${RLHF_ARTIFACTS:?name the folder of the artifacts}" .
    fi
else
    [ -e "$home/mlflow.db" ] || { echo "$home holds no mlflow.db; set RLHF_HOME, or RLHF_PG for a server" >&2; exit 2; }
    sqlite_copy "$home/mlflow.db" "$partial/mlflow.db"
    [ ! -e "$home/prefect/prefect.db" ] || sqlite_copy "$home/prefect/prefect.db" "$partial/prefect.db"
    (cd "$home" && find mlartifacts outbox approvals sweeps reports -maxdepth 0 2>/dev/null || true) |
        tar --create --file="$partial/artifacts.tar" --directory="$home" --files-from=-
fi
(cd "$partial" && sha256sum -- * >SHA256SUMS && sync -f SHA256SUMS)
mv "$partial" "$target"
echo "$target"

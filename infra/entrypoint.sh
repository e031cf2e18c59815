#!/bin/sh
# What a container runs: `worker ARGS`, `stage STAGE SPEC RUN_DIR`, or any command. A variable NAME_FILE, as container platforms
# mount secrets, becomes NAME with the file's content; it is not printed and stands in no image layer.
set -eu

for pair in $(env | grep -E '^[A-Z][A-Z0-9_]*_FILE=/' || true); do
    name=${pair%%=*}
    file=${pair#*=}
    case $file in /run/secrets/* | /etc/secrets/*) ;; *) continue ;; esac
    if [ ! -r "$file" ]; then
        echo "$name names $file, which cannot be read; expected a file with the secret" >&2
        exit 2
    fi
    value=$(cat "$file")
    if [ -z "$value" ]; then
        echo "$name names $file, which is empty; expected a file with the secret" >&2
        exit 2
    fi
    export "${name%_FILE}=$value"
done
unset value

case "${1:-}" in
    worker) shift; exec prefect worker start --with-healthcheck "$@" ;;
    stage) shift; exec "$RLHF_STAGE_PYTHON" -m rlhf_core "$@" ;;
    *) exec "$@" ;;
esac

#!/bin/sh
# Make the secrets that are not there yet: secrets.sh FOLDER. Random, readable by their owner only, none has a default.
# tls_certificate and tls_key are yours to put there; `secrets.sh FOLDER --self-signed DOMAIN` makes them for a trial.
set -eu
umask 077
folder=${1:?usage: secrets.sh FOLDER [--self-signed DOMAIN]}
mkdir -p "$folder"

make() { # NAME: a random secret of 32 hexadecimal digits
    [ -s "$folder/$1" ] || openssl rand -hex 16 | tr -d '\n' >"$folder/$1"
}
write() { # NAME TEXT
    [ -s "$folder/$1" ] || printf '%s' "$2" >"$folder/$1"
}
for name in postgres_password mlflow_database_password prefect_database_password redis_password object_store_password \
    mlflow_admin_password mlflow_server_key mlflow_worker_password prefect_password; do
    make "$name"
done
write object_store_user rlhf
write redis_url "redis://:$(cat "$folder/redis_password")@redis:6379/0"
write prefect_auth "rlhf:$(cat "$folder/prefect_password")"
if [ "${2:-}" = --self-signed ]; then
    domain=${3:?usage: secrets.sh FOLDER --self-signed DOMAIN}
    [ -s "$folder/tls_key" ] || openssl req -x509 -newkey rsa:2048 -nodes -days 90 -subj "/CN=$domain" \
        -addext "subjectAltName=DNS:mlflow.$domain,DNS:prefect.$domain" \
        -keyout "$folder/tls_key" -out "$folder/tls_certificate" 2>/dev/null
fi
# Each container reads its files as a user of its own, which is not the owner: the folder protects them on the host.
chmod 700 "$folder"
chmod 444 "$folder"/*

#!/bin/sh
# Writes .env beside this file with fresh secrets; an .env that is there already stays, because databases know its passwords.
set -eu
cd "$(dirname "$0")"
if [ -e .env ]; then
    echo "$PWD/.env exists; remove it and the stack's volumes to start anew" >&2
    exit 1
fi
umask 077
secret() { openssl rand -hex 24; }
cat > .env <<VALUES
POSTGRES_PASSWORD=$(secret)
PREFECT_DB_PASSWORD=$(secret)
MLFLOW_DB_PASSWORD=$(secret)
S3_ACCESS_KEY=$(secret)
S3_SECRET_KEY=$(secret)
RAY_TOKEN=$(secret)
GRAFANA_PASSWORD=$(secret)
VALUES
echo "wrote $PWD/.env"

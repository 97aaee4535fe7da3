#!/bin/sh
# Writes .env beside this file: new secrets, and limits that fit the machine. An existing .env keeps its values, because
# the databases use its passwords; if it has no limits yet, they are added.
set -eu
cd "$(dirname "$0")"
if [ -e .env ] && grep -q '^RAY_CPUS=' .env; then
    echo "$PWD/.env exists; to start afresh remove it and the volumes of the stack" >&2
    exit 1
fi
umask 077
secret() { openssl rand -hex 24; }
least() { echo $(($1 < $2 ? $1 : $2)); }
if [ ! -e .env ]; then
    cat > .env <<SECRETS
POSTGRES_PASSWORD=$(secret)
PREFECT_DB_PASSWORD=$(secret)
MLFLOW_DB_PASSWORD=$(secret)
S3_ACCESS_KEY=$(secret)
S3_SECRET_KEY=$(secret)
RAY_TOKEN=$(secret)
GRAFANA_PASSWORD=$(secret)
SECRETS
fi
# CPUs and memory of Docker's machine, which may be a smaller virtual one; of this machine if Docker does not answer.
if ! machine=$(docker info --format '{{.NCPU}} {{.MemTotal}}' 2> /dev/null); then
    machine="$(getconf _NPROCESSORS_ONLN) $(($(getconf _PHYS_PAGES) * $(getconf PAGE_SIZE)))"
fi
cores=${machine% *} memory=${machine#* } gib=1073741824
store=$(least $((4 * gib)) $((memory / 8)))
cat >> .env <<LIMITS
RAY_CPUS=$(least 4 "$cores")
SERVER_CPUS=$(least 2 "$cores")
RAY_HEAD_MEMORY=$(least $((8 * gib)) $((memory / 3)))
RAY_WORKER_MEMORY=$(least $((16 * gib)) $((memory / 2)))
RAY_OBJECT_STORE=$store
RAY_SHM=$((store * 5 / 4))
LIMITS
echo "wrote $PWD/.env"

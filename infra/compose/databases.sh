#!/bin/sh
# Runs once, on an empty volume. Creates a database and a user for each service, without access to the other database.
set -eu
for name in prefect mlflow; do
    case $name in
        prefect) password=$PREFECT_DB_PASSWORD ;;
        mlflow) password=$MLFLOW_DB_PASSWORD ;;
    esac
    psql --set=ON_ERROR_STOP=1 --set=name="$name" --set=password="$password" --username "$POSTGRES_USER" <<'SQL'
CREATE USER :"name" PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done

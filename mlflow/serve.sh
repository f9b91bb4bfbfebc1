#!/bin/sh
# Start the tracking server. Every setting is an environment variable of MLflow, so that no command contains a password.
# `serve.sh upgrade` upgrades the tables of the database to the installed version of MLflow instead.
set -eu

: "${MLFLOW_BACKEND_STORE_URI:?is the address of the database, for example postgresql+psycopg2://user:password@host/mlflow}"

case "${1:-serve}" in
  serve)
    : "${MLFLOW_ARTIFACTS_DESTINATION:?is the address of the files, for example s3://bucket/mlflow}"
    # Without a key the server would start, but answer every request for a file with status 500 and no reason.
    case "$MLFLOW_ARTIFACTS_DESTINATION" in
      s3://*)
        python -c 'import sys, boto3; sys.exit(not boto3.Session().get_credentials())' || {
          echo "serve.sh: no key for $MLFLOW_ARTIFACTS_DESTINATION; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" \
            "(on Kubernetes in the secret segline-mlflow-s3)" >&2
          exit 1
        }
        ;;
    esac
    # MLflow does not read the style of addresses from the file AWS_CONFIG_FILE, as every other client of the bucket does.
    if [ -z "${MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE:-}" ]; then
      style=$(python -c 'import boto3
print((boto3.Session()._session.get_scoped_config().get("s3") or {}).get("addressing_style", "auto"))')
      export MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE="$style"
    fi
    # Clients send files to the server and need no key of the bucket.
    export MLFLOW_SERVE_ARTIFACTS=true
    # Jobs are evaluations of language models; they need more processes and their own database.
    export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
    exec python -m mlflow server
    ;;
  upgrade)
    exec python -m mlflow db upgrade "$MLFLOW_BACKEND_STORE_URI"
    ;;
  *)
    echo "serve.sh: unknown command '$1', expected serve or upgrade" >&2
    exit 2
    ;;
esac

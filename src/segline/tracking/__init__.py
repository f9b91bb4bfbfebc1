"""MLflow: its client, runs, the registry, provenance, and the recorder of a grid. No other package imports mlflow.

The settings below stand here because MLflow reads some of them when it is imported: Python runs this file before any
module of the package. What the environment already says wins.
"""

import os

# MLflow's own patience is four minutes with a server that refuses the connection, and a quarter of an hour with one
# that is silent; with these retries and this timeout it is five seconds and one minute.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Files go through the server. By default MLflow downloads every file, and uploads large ones, by signed addresses of
# the server's bucket, which a client may be unable to reach.
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")

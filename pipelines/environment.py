"""What the pods of a run get from the site: addresses, keys, certificates, and the id of the run."""

from kfp import dsl, kubernetes

SETTINGS = ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "SEGLINE_STORE")
"""The keys of the config map, each the name of an environment variable, as in the two secrets below."""
FILES = ("AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""The keys whose values are the names of files."""
OPTIONAL_SETTINGS = (
    *FILES,
    "AWS_EC2_METADATA_DISABLED",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_REQUEST_PAYER",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
)
"""The keys that the config map may have: a compiled pipeline can take no config map whole, as Ray's pods do."""
SITE = "segline-site"
"""The config map of the site's files, such as a certificate or a configuration of AWS, which may be absent."""
SITE_FOLDER = "/etc/segline-site"
GIT_LOGIN = {"username": "SEGLINE_GIT_USERNAME", "password": "SEGLINE_GIT_PASSWORD"}
"""The login of a private git repository, for DVC: key of the secret and environment variable."""
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
TRACKED = ("validate", "changed", "train", "promote", "outcome")
"""The tasks that use MLflow."""


def set_environment(task: dsl.PipelineTask) -> None:
    """Set the addresses and keys of MLflow and of the object store, and the id of the run; mount the site's files.

    Every secret may be absent: a service account may have the rights of a key, and few MLflow servers want a login.
    """
    kubernetes.use_config_map_as_env(task, "segline-settings", {name: name for name in SETTINGS})
    optional = {name: name for name in OPTIONAL_SETTINGS}
    kubernetes.use_config_map_as_env(task, "segline-settings", optional, optional=True)
    kubernetes.use_config_map_as_volume(task, SITE, SITE_FOLDER, optional=True)
    if task.name != "outcome":
        _use_secret(task, "segline-s3", {name: name for name in S3_KEYS})
    if task.name in TRACKED:
        _use_secret(task, "segline-mlflow-login", {name: name for name in LOGIN})
    kubernetes.use_field_path_as_env(task, env_name="SEGLINE_RUN", field_path="metadata.labels['pipeline/runid']")
    if task.name == "ingest":
        _use_secret(task, "segline-git", GIT_LOGIN)
    if task.name == "outcome":
        _use_secret(task, "segline-webhook", {"url": "SEGLINE_WEBHOOK"})


def _use_secret(task: dsl.PipelineTask, name: str, variables: dict[str, str]) -> None:
    """Set environment variables from the keys of a secret; a key that is absent sets none."""
    kubernetes.use_secret_as_env(task, secret_name=name, secret_key_to_env=variables, optional=True)

"""The tags that Segline gives to runs and registered versions in MLflow.

Only those that nothing reads were renamed since 0.1: ``segline.dataset`` is ``segline.dataset_hash``,
``segline.environment`` is ``segline.environment_hash``, and ``segline.uncommitted`` (yes or no) is MLflow's own
``mlflow.source.git.dirty`` (true or false). So a registry that 0.1 wrote is understood as it is.
"""

KEY = "segline.key"
"""The hash of everything that a run or version depends on; it is found again by this tag."""

DATASET_HASH = "segline.dataset_hash"
"""The content hash of the shards."""
SOURCE = "segline.source"
"""The address of the source data."""
SOURCE_HASH = "segline.source_hash"
"""The content hash of the source data's manifest."""
SOURCE_REVISION = "segline.source_revision"
"""The revision of the source data, for example ``git:<commit>`` or ``sha256:<hash>``."""
ENVIRONMENT_HASH = "segline.environment_hash"
"""The hash of all installed packages with their versions."""
GIT_COMMIT = "mlflow.source.git.commit"
GIT_DIRTY = "mlflow.source.git.dirty"
"""Whether the working tree differs from the commit: true or false."""

INIT = "segline.init"
"""The versions or folders whose weights a model, or the trials of a grid, started from."""
INIT_KEY = "segline.init_key"
"""The hash of all that a grid depends on but for what ``train.init`` stands for, which is found again by it."""

ERROR = "segline.error"
"""The reason why a trial failed."""
ELIMINATED = "segline.eliminated"
"""``yes`` on the run of a trial that the search ended early."""
PIPELINE_RUN = "segline.pipeline_run"
"""The id of the Kubeflow run that wrote the MLflow run."""
PIPELINE_STATE = "segline.pipeline_state"
"""The final state of that Kubeflow run."""

SETTINGS_HASH = "segline.settings_hash"
"""The hash of what a line depends on beside the data, on the run of a line."""
TRAINS = "segline.trains"
"""Whether the last Kubeflow run of a line trained: yes or no."""
REASON = "segline.reason"
"""The reason why it did or did not."""
JUDGED = "segline.judged"
"""The number of the version that promote has judged for a line; empty or absent for none."""

DECISION = "segline.decision"
"""The decision of promote about a version, as JSON."""
PREVIOUS_CHAMPION = "segline.previous_champion"
"""The number of the version that was champion before this one."""
HISTORY = "segline.history."
"""The beginning of the tags of the registered model that hold its history; a number follows."""
ROLLED_BACK = "segline.rolled_back"
"""A version with this tag, of any value, is not promoted again; a rollback sets it, and its value is the reason."""
LOCK_HOLDER = "segline.lock_holder"
"""The process that holds a lock, on the registered model that is the lock."""

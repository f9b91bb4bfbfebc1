"""What all tests share: one core each, shapes checked wherever a signature names them, and an MLflow of one's own."""

import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from jaxtyping import install_import_hook

CHECKED = ("models", "losses", "metrics", "data.augment", "inference", "training.engine")

install_import_hook([f"segline.{name}" for name in CHECKED], "beartype.beartype")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An MLflow database without anything in it; to make its tables takes seconds."""
    from segline.tracking import Tracker

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    assert Tracker(f"sqlite:///{path}", "none").client
    return path


@pytest.fixture
def tracking_uri(empty_store, tmp_path):
    """An MLflow database of the test's own."""
    (tmp_path / "mlflow").mkdir()
    shutil.copyfile(empty_store, tmp_path / "mlflow" / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow/mlflow.db"

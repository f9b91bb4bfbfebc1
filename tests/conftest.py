"""What all tests share: one core each, shapes checked wherever a signature names them, and an MLflow of one's own."""

import gc
import inspect
import os
import secrets
import shutil
import sys
import time
from contextlib import nullcontext
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
import pytest

CHECKED = (
    "models",
    "losses",
    "metrics",
    "data.augment",
    "inference",
    "training.engine",
    "training.run",
    "training.step",
    "training.validation",
)

jaxtyping.install_import_hook([f"segline.{name}" for name in CHECKED], "beartype.beartype")

LONG = ("tests/stages/", "tests/training/", "tests/test_")

gc.disable()


def pytest_collection_finish():
    """What is loaded by now stays: the garbage collector need not go through millions of objects again and again."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish():
    gc.unfreeze()


def pytest_collection_modifyitems(items):
    """Begin with the modules that train and start processes: the short ones then end at the same time everywhere."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.fixture(scope="session", autouse=True)
def stacks_without_source():
    """Kubeflow Pipelines asks for the whole stack whenever a task is changed, to know the name of one function.

    With the source of every frame that takes four fifths of the time to compile a pipeline.
    """
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(inspect, "stack", partial(inspect.stack, 0))
        yield


@pytest.fixture
def fresh_compiler(monkeypatch):
    """A compiler that kept nothing; shapes in signatures are not checked meanwhile, as that cannot be compiled."""
    import torch

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def not_drawn(monkeypatch):
    """Weights that are overwritten are not drawn before, which takes longer than all the rest."""
    from torch.nn import init

    for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_", "xavier_uniform_"):
        monkeypatch.setattr(init, name, lambda tensor, *_, **__: tensor)


@pytest.fixture(autouse=True)
def free_algorithms():
    """A training in this process leaves PyTorch with deterministic algorithms only, which the next test may lack."""
    yield
    torch = sys.modules.get("torch")
    if torch and torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An MLflow database without anything in it; to make its tables takes seconds."""
    from segline.tracking.client import Experiment

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    assert Experiment(f"sqlite:///{path}", "none").client
    return path


@pytest.fixture
def tracking_uri(empty_store, tmp_path):
    """An MLflow database of the test's own."""
    (tmp_path / "mlflow").mkdir()
    shutil.copyfile(empty_store, tmp_path / "mlflow" / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow/mlflow.db"


@pytest.fixture(scope="session")
def ray_settings():
    """What `ray_session` sets; Ray reads it when it is imported, and keeps a token as long as the process lives."""
    from segline.parallel import SETTINGS

    for name, value in {**SETTINGS, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}.items():
        os.environ.setdefault(name, value)


@pytest.fixture(scope="session")
def ray_cluster(ray_settings):
    """The address of a Ray of two cores on this machine; each start of one takes ten seconds of a core."""
    from ray.cluster_utils import Cluster

    made = Cluster()
    try:
        made.add_node(
            num_cpus=2,
            include_dashboard=False,
            include_log_monitor=False,
            no_monitor=True,
            object_store_memory=100 * 2**20,
        )
        yield made.address
    finally:
        made.shutdown()


@pytest.fixture
def joined_ray(ray_cluster, monkeypatch):
    """Segline joins the Ray of the tests in place of starting one."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)


@pytest.fixture(scope="module")
def one_ray_session(ray_cluster):
    """One session of Ray for all that a module runs on it: in a new one each process imports all anew."""
    from segline.parallel import ray_session

    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("RAY_ADDRESS", ray_cluster)
        with ray_session() as resources:
            changed.setattr("segline.parallel.ray_session", lambda: nullcontext(resources))
            yield resources


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """The address of an S3 server in a process of its own."""
    from servers import s3_process

    with s3_process(tmp_path_factory.mktemp("s3") / "log") as address:
        yield address


@pytest.fixture(scope="module")
def s3(s3_server, tmp_path_factory):
    """The same server through one that can fail, in the environment of one who may use it."""
    from servers import forget_client, forward, serving

    from segline.files import retry

    nothing = tmp_path_factory.mktemp("aws") / "nothing"
    nothing.touch()
    with serving(forward(s3_server)) as faulty, pytest.MonkeyPatch.context() as changed:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            changed.delenv(name)
        for name, value in {
            "ENDPOINT_URL": faulty.address,
            "ACCESS_KEY_ID": "somebody",
            "SECRET_ACCESS_KEY": "secret",
            "DEFAULT_REGION": "us-east-1",
            "CONFIG_FILE": str(nothing),
            "SHARED_CREDENTIALS_FILE": str(nothing),
            "EC2_METADATA_DISABLED": "true",
        }.items():
            changed.setenv(f"AWS_{name}", value)
        changed.setattr(retry, "FIRST_PAUSE_S", 0.001)
        yield faulty
        forget_client()


@pytest.fixture(scope="module")
def s3_client(s3, s3_server):
    """boto3's own client, straight to the server."""
    import boto3

    client = boto3.session.Session().client("s3", endpoint_url=s3_server)
    yield client
    client.close()


@pytest.fixture
def bucket(s3, s3_client):
    """A function that makes a bucket with a name's objects, ``bucket({key: bytes})`` -> its name."""
    s3.faults, s3.asked = [], []

    def put(objects, name=""):
        if not name:
            name = f"bucket-{time.monotonic_ns()}"
            s3_client.create_bucket(Bucket=name)
        for key, content in objects.items():
            s3_client.put_object(Bucket=name, Key=key, Body=content)
        return name

    return put

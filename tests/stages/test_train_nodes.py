"""Training on nodes that share no disk: on this machine, but each with a file system of its own where it counts.

All that they have in common is a bucket on an S3 server.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from servers import running
from shard_files import write_split

from segline.artifacts.dataset import DatasetInfo, write_dataset_info
from segline.classes import LabelClass
from segline.config.loader import load
from segline.files import transfer
from segline.parallel import SETTINGS
from segline.training.checkpoints import CheckpointStore
from segline.training.run_trial import train_trial
from segline.training.search import grid
from segline.training.trial import Trial, TrialInputs

RAY = Path(sys.executable).with_name("ray")
SEGLINE = "import sys; from segline.cli import main; sys.exit(main())"
EPOCHS = 40
TRAIN = {
    "models": [{"unet": {"width": 2, "depth": 1}}],
    "losses": ["dice", "cross_entropy"],
    "epochs": EPOCHS,
    "batch_size": 2,
    "search": {"scheduler": "none"},
}


def can_have_own_disks():
    if os.geteuid() or not shutil.which("unshare"):
        return False
    return (
        subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
    )


pytestmark = [
    pytest.mark.skipif(not can_have_own_disks(), reason="only root may give a process file systems of its own"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A dataset of noise in two classes, as label writes it."""
    folder, rng = tmp_path_factory.mktemp("written"), np.random.default_rng(0)
    for split in ("train", "val"):
        images = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
        write_split(folder / "label" / split, images, (images[..., 0] > 127).astype(np.uint8))
    classes = (LabelClass("dark", (0, 0, 0)), LabelClass("light", (255, 0, 0)))
    write_dataset_info(
        folder / "label",
        DatasetInfo(
            classes=classes,
            background=0,
            crop_size=(32, 32),
            content_hash="c",
            source="h",
            source_hash="s",
            source_revision="",
            pixels={},
            test_is_val=False,
        ),
    )
    return folder


@pytest.fixture(scope="module")
def environment(s3, tmp_path_factory):
    """Of a cluster, without that of the tests."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "SEGLINE_"))}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONUNBUFFERED": "1"}
    return keep | SETTINGS | token


def patiently(words):
    """Start a node, again if the machine is so busy that Ray gives up."""
    return f"for attempt in 1 2 3 4; do {RAY} start {words} --dashboard-agent-listen-port=0 --block && exit; done"


@contextmanager
def head(environment, folder):
    """A node without cores; yields the address of its cluster."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = f"--head --port={port} --num-cpus=0 --include-dashboard=false --temp-dir={folder}"
    with running(["sh", "-c", patiently(words)], environment, folder / "head.log"):
        wait_for_start(folder / "head.log")
        yield f"127.0.0.1:{port}"


@contextmanager
def node(environment, address, disk, log):
    """A node with one core, which sees an empty disk of its own at ``disk``."""
    start = f"mount -t tmpfs none {disk} && {patiently(f'--address={address} --num-cpus=1')}"
    with running(["unshare", "-m", "sh", "-c", start], environment, log):
        wait_for_start(log)
        yield


def wait_for_start(log):
    """One after the other: nodes that start at once are slow enough for Ray to give up on a busy machine."""
    deadline = time.monotonic() + 200
    while "Ray runtime started" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


@pytest.fixture
def cluster(environment, tmp_path_factory):
    """A head and its address; the folder that the nodes do not share."""
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/nodes-XXXX"], text=True).strip())
    disk = folder / "disk"
    disk.mkdir()
    with head(environment, folder) as address:
        yield address, disk
    shutil.rmtree(folder, ignore_errors=True)


def start(words, environment, folder, **more):
    params = json.dumps({"name": "tiny", "train": TRAIN | more})
    return subprocess.Popen(
        [sys.executable, "-c", SEGLINE, "train", "--params", params, *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    shown, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    return shown


def files(folder):
    """What is in the candidates, without where their checkpoints were kept."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, content in found.items():
        if name.endswith("trial.json"):
            found[name] = {key: value for key, value in json.loads(content).items() if key != "checkpoints"}
    return found


def train_here(dataset_dir, work):
    """The candidates of one machine, trained in this process."""
    settings = load(json.dumps({"name": "tiny", "train": TRAIN}))
    inputs, store = (
        TrialInputs(dataset_dir=dataset_dir, prepared_dir=dataset_dir.parent / "prepared"),
        CheckpointStore(""),
    )
    for config in grid.grid_configs(settings.train, settings.seed):
        trial = Trial(config=config, inputs=inputs, folder=work / config.name, until=EPOCHS, store=store)
        for _ in train_trial(trial):
            pass


def words_for(store):
    return [
        *("--dataset", f"{store}/label"),
        *("--out", f"{store}/train", "--tracking-uri", "sqlite:///mlflow.db"),
    ]


def test_nodes_without_a_disk_in_common_train_what_one_machine_trains(
    written, environment, cluster, bucket, s3_client, tmp_path, monkeypatch
):
    """Stopped once by SIGTERM; then both nodes are lost with their disks, and two others go on."""
    address, disk = cluster
    name = bucket({})
    store = f"s3://{name}/run"
    transfer.upload(written / "label", f"{store}/label")
    there = environment | {"SEGLINE_CACHE": str(disk / "cache")}
    driver = there | {"RAY_ADDRESS": address}
    train_here(written / "label", tmp_path / "alone")

    def saved():
        listed = s3_client.list_objects_v2(Bucket=name, Prefix="run/checkpoints/").get("Contents", [])
        return [entry["Key"] for entry in listed if entry["Key"].endswith("last.pt")]

    logs = [tmp_path / f"node{number}.log" for number in range(4)]
    with node(there, address, disk, logs[0]), node(there, address, disk, logs[1]):
        first = start(words_for(store), driver, tmp_path, checkpoints=f"{store}/checkpoints")
        while first.poll() is None and len(saved()) < 2:
            time.sleep(0.1)
        first.send_signal(signal.SIGTERM)
        _, told = first.communicate(timeout=60)
        assert first.returncode == 75, told
        assert told.strip().endswith("saved; the same command continues")
    assert not [*disk.rglob("last.pt"), *disk.rglob("weights.safetensors")], (
        "trials ran where this machine sees nothing"
    )
    with node(there, address, disk, logs[2]), node(there, address, disk, logs[3]):
        second = start(words_for(store), driver, tmp_path, checkpoints=f"{store}/checkpoints")
        assert "2 candidates" in finish(second)
    monkeypatch.setenv("SEGLINE_CACHE", str(tmp_path / "cache"))
    found, expected = files(transfer.download(f"{store}/train")), files(tmp_path / "alone")
    assert sorted(name for name in found if "/" in name and not name.startswith(("curves", "search/"))) == sorted(
        expected
    )
    assert [name for name in expected if found[name] != expected[name]] == []

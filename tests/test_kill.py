"""`dvc repro`, killed with SIGKILL at random moments and started again, ends as an undisturbed run does."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
import yaml

ROOT = Path(__file__).parents[1]
SAME = (
    "ingest/manifest.parquet",
    "validate/manifest.parquet",
    "validate/validation.json",
    "label/dataset.json",
    "evaluate/metrics.json",
    "ensemble/metrics.json",
    "promote/decision.json",
)
TINY = {
    "name": "tiny",
    "ingest": {"synthetic": {"drives": 6, "frames_per_drive": 2, "height": 96, "width": 128}},
    "validate": {"max_quarantined_share": 0.5},
    "label": {"crop": 32},
    "train": {
        "models": [{"unet": {"width": 2, "depth": 1}}],
        "losses": ["dice", {"semeda": {"edge_steps": 100}}],
        "epochs": 12,
        "cpus_per_worker": 1,
    },
    "evaluate": {"batch_size": 16, "pictures": 1},
    "ensemble": {"max_members": 2},
}


def project(folder):
    """The line of this repository with tiny parameters, in a folder of its own."""
    folder.mkdir()
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copy(ROOT / ".dvcignore", folder)
    shutil.copy(ROOT / "exclusions.csv", folder)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "params.yaml").write_text(yaml.safe_dump({"seed": 7, **TINY}))
    subprocess.run([dvc(), "init", "--no-scm", "--quiet"], cwd=folder, check=True)
    return folder


def dvc():
    return str(Path(sys.executable).with_name("dvc"))


def start(folder):
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "DVC_"))}
    path = f"{Path(sys.executable).parent}:{keep['PATH']}"
    return subprocess.Popen(
        [dvc(), "repro"],
        cwd=folder,
        env=keep | {"PATH": path, "PYTHONPATH": str(folder / "src"), "DVC_NO_ANALYTICS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def outcome(folder):
    """What the line made, without what may differ: the order and times of MLflow."""
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    epochs = {
        run.info.run_name: sorted(m.step for m in client.get_metric_history(run.info.run_id, "val_miou"))
        for run in runs
    }
    # A search tells no aliases.
    versions = [v.version for v in client.search_model_versions("name = 'tiny'")]
    aliases = client.get_registered_model("tiny").aliases
    weights = {path.name: path.read_bytes() for path in (folder / "data/train").rglob("*.safetensors")}
    files = {name: (folder / "data" / name).read_bytes() for name in SAME}
    return files, weights, epochs, versions, aliases, {run.info.status for run in runs}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = project(tmp_path_factory.mktemp("kill") / "undisturbed")
    began = time.monotonic()
    process = start(folder)
    shown, _ = process.communicate()
    assert process.returncode == 0, shown
    return outcome(folder), time.monotonic() - began


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments_it_ends_the_same(undisturbed, tmp_path, seed):
    expected, seconds = undisturbed
    folder = project(tmp_path / "killed")
    moments = random.Random(seed)
    for _ in range(5):
        process = start(folder)
        try:
            process.wait(timeout=moments.uniform(0.05, 0.6) * seconds)
        except subprocess.TimeoutExpired:
            # One half of the kills takes dvc alone: its stage must not go on writing behind it.
            if moments.random() < 0.5:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.stdout.close()
        process.wait()
    last = start(folder)
    shown, _ = last.communicate()
    assert last.returncode == 0, shown
    assert outcome(folder) == expected
    assert json.loads((folder / "data/promote/decision.json").read_text())["version"] == 1

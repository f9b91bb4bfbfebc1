"""A full disk in each of the stages that write data: one line that names the file, and nothing half-written.

A limit on the size of files, which bash sets, is the full disk that needs no root.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segline.artifacts.manifest import read_manifest
from segline.cli import main

BLOCKS = 8
"""Of 1024 bytes: fewer than what any of the stages writes at least once."""


@pytest.fixture(scope="module")
def wad(tmp_path_factory):
    """Sixty pairs, so that manifest and statistics do not fit."""
    root, rng = tmp_path_factory.mktemp("wad"), np.random.default_rng(0)
    for number in range(60):
        name = f"17090{number % 6}_{number:09d}_Camera_5"
        for folder in ("train_color", "train_label"):
            (root / folder).mkdir(exist_ok=True)
        label = np.zeros((40, 48), np.uint16)
        label[10 : 20 + number % 7, 10:30] = 33_001 + number
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(root / "train_color" / f"{name}.jpg")
        Image.fromarray(label).save(root / "train_label" / f"{name}_instanceIds.png")
    return root


@pytest.fixture(scope="module")
def run(wad, tmp_path_factory):
    """Runs a stage in a folder of its own, in a process with a limit, or in this one without."""
    home = tmp_path_factory.mktemp("run")
    severity = {"sharpness": "warn", "near_duplicate": "warn"}
    params = {"ingest": {"source": str(wad)}, "validate": {"severity": severity}, "label": {"crop": 32}}
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def call(stage, *, full):
        words = [stage, "--params", json.dumps(params)]
        if not full:
            with contextlib.chdir(home):
                return main(words), ""
        limited = f"ulimit -f {BLOCKS}; segline {shlex.join(words)}"
        done = subprocess.run(["bash", "-c", limited], cwd=home, env=environment, capture_output=True, text=True)
        return done.returncode, done.stderr

    call.home = home
    return call


def test_each_stage_says_what_could_not_be_written_and_goes_on_when_there_is_room(run, wad):
    for stage, file in (("ingest", "checksums.parquet"), ("validate", "parquet"), ("label", "label.partial/train")):
        code, said = run(stage, full=True)
        assert code == 5, said
        [line] = said.splitlines()
        assert line.startswith(f"segline {stage}: ")
        assert file in line
        assert "cannot be written (File too large); fix that and run the same command again" in line
        assert not (run.home / "data" / stage / ("dataset.json" if stage == "label" else "manifest.parquet")).exists()
        assert not list(run.home.rglob(".*.tmp"))
        assert run(stage, full=False)[0] == 0
    assert len(read_manifest(run.home / "data" / "validate").rows) == 60
    assert len(list((wad / "train_color").iterdir())) == 60

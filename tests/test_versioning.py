"""What docs/data.md says of versioning a data set with DVC, run as written: git, dvc, an S3 server, segline."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from servers import git_over_http, serving

from segline.artifacts.manifest import read_manifest
from segline.cli import main

# The page's blocks, in its order. Each begins in the folder that holds the data set `wad` and the clone of segline.
BEGIN = """
mkdir wad-data && cd wad-data
git init && dvc init
dvc remote add --default store s3://my-bucket/wad
dvc remote modify store endpointurl http://127.0.0.1:9000    # only where it is not AWS
cp -r ../wad .
dvc add wad
git add . && git commit -m "First drives" && git tag v1
dvc push
"""
GO_ON = """
cd wad-data
cp -r ../more/* wad/
dvc add wad
git commit -am "More drives" && git tag v2
dvc push
"""
ELSEWHERE = """
git clone wad-data elsewhere && cd elsewhere
dvc pull                            # the newest version
git checkout v1 && dvc pull         # an old one
"""
IMAGE = "segline/data:dev"
BLOCKS = [BEGIN, GO_ON, ELSEWHERE]

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon raise:DeprecationWarning")


def draw(root, numbers):
    """A few pairs of the wad layout."""
    for number in numbers:
        rng = np.random.default_rng(number)
        stem = f"17090{number % 4}_{number:09d}_Camera_5"
        for folder, name, values in (
            ("train_color", f"{stem}.jpg", rng.integers(0, 256, (6, 8, 3), np.uint8)),
            ("train_label", f"{stem}_instanceIds.png", rng.choice(np.array([0, 33_001], np.uint16), (6, 8))),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(root / folder / name)


def ingest(source, out, **settings):
    """What ``segline ingest`` makes of a source."""
    params = {"ingest": {"source": str(source), **settings}}
    assert main(["ingest", "--params", json.dumps(params), "--out", str(out)]) == 0
    return read_manifest(out)


@pytest.fixture
def shell(tmp_path, s3_server, s3_client, monkeypatch):
    """Runs a block of the page in an empty home, with the test's server for the page's."""
    s3_client.create_bucket(Bucket="my-bucket")
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b.c",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b.c",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def run(block):
        text = block.replace("http://127.0.0.1:9000", s3_server)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_an_old_version_is_checked_out_and_its_result_reproduced(tmp_path, shell):
    draw(tmp_path / "wad", range(12))
    draw(tmp_path / "more", [3, *range(20, 24)])  # one pair is another now, four are new
    Image.new("RGB", (8, 6), "red").save(tmp_path / "more/train_color/170903_000000003_Camera_5.jpg")

    shell(BEGIN)
    first = ingest("wad-data/wad", tmp_path / "then")
    shell(GO_ON)
    second = ingest("wad-data/wad", tmp_path / "now")
    assert (len(first.rows), len(second.rows)) == (12, 16)
    assert first.content_hash != second.content_hash
    assert first.origin.revision != second.origin.revision

    # Nothing of the data is left but what was pushed.
    shutil.rmtree(tmp_path / "wad-data" / "wad")
    shutil.rmtree(tmp_path / "wad-data" / ".dvc" / "cache")
    shutil.rmtree(tmp_path / "site")
    for version, made in (("v1", first), ("v2", second)):
        again = ingest("dvc://wad-data", tmp_path / "again", dvc={"path": "wad", "revision": version})
        assert again.content_hash == made.content_hash
        commit = subprocess.run(
            ["git", "rev-parse", version], cwd="wad-data", check=True, capture_output=True, text=True
        ).stdout.strip()
        assert again.origin.revision == f"git:{commit}"
        assert not (tmp_path / "wad-data" / "wad").exists()

    shell(ELSEWHERE)
    old = ingest("elsewhere/wad", tmp_path / "elsewhere-then")
    assert old.content_hash == first.content_hash
    assert old.origin.revision == first.origin.revision


@pytest.mark.slow
def test_the_image_takes_an_old_version_from_a_private_repository(tmp_path, shell):
    """As a pod does: the repository from a git server that wants a login, the data from the bucket."""
    docker = pytest.importorskip("docker")
    try:
        client = docker.from_env()
        client.images.get(IMAGE)
    except docker.errors.DockerException as error:
        pytest.skip(f"no docker with {IMAGE} (make images TAG=dev): {str(error).splitlines()[0][:80]}")
    draw(tmp_path / "wad", range(12))
    draw(tmp_path / "more", range(20, 24))
    shell(BEGIN)
    first = ingest("wad-data/wad", tmp_path / "then")
    shell(GO_ON)
    out = tmp_path / "out"
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    with serving(git_over_http(tmp_path, "somebody:a token")) as server:
        source = {"source": f"dvc://{server.address}/wad-data", "dvc": {"path": "wad", "revision": "v1"}}
        login = {"SEGLINE_GIT_USERNAME": "somebody", "SEGLINE_GIT_PASSWORD": "a token"}
        client.containers.run(
            IMAGE,
            ["segline", "ingest", "--params", json.dumps({"ingest": source}), "--out", "/work/ingest"],
            environment={name: os.environ[name] for name in os.environ if name.startswith("AWS_")} | login,
            volumes={str(out): {"bind": "/work", "mode": "rw"}},
            network_mode="host",
            read_only=True,
            tmpfs={"/tmp": "size=1g,mode=1777"},
            cap_drop=["ALL"],
            remove=True,
        )
    client.close()
    made = read_manifest(out / "ingest")
    assert made.content_hash == first.content_hash
    assert made.origin.source == source["source"]
    assert len(made.rows) == 12


def test_the_page_shows_these_commands():
    page = Path(__file__).parents[1].joinpath("docs", "data.md").read_text()
    for block in BLOCKS:
        assert block in page

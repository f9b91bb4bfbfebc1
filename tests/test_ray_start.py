"""How Ray is started and joined: again with patience, then one line; in a folder that is gone afterwards."""

import os
import re
import socket
import tempfile
import time
from pathlib import Path

import pytest

from segline import ray_start
from segline.errors import StageError
from segline.parallel import ray_session
from segline.ray_start import joined_ray, local_ray

TIMED_OUT = "The current node timed out during startup. This could happen because the raylet failed to startup."


class Ray:
    """Stands for the library: some first starts fail."""

    def __init__(self, *errors):
        self.errors, self.starts, self.ended = list(errors), [], 0

    def init(self, **options):
        self.starts.append(options)
        if self.errors:
            raise self.errors.pop(0)
        if "_temp_dir" in options:
            Path(options["_temp_dir"], "session_1").mkdir()

    def shutdown(self):
        self.ended += 1


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(ray_start, "PAUSES_S", (0.0, 0.0, 0.0))


@pytest.fixture
def root(monkeypatch):
    """A folder for temporary files with a short name, of the test's own."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.mark.parametrize(
    "error",
    [
        Exception(TIMED_OUT),
        RuntimeError("Failed to start GCS.\n" + 2000 * "x"),
        ConnectionError("no"),
        OSError(98, "in use"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_start_that_fails_is_tried_again_and_told_in_a_short_line(root, capsys, error):
    ray = Ray(error, error)
    with local_ray(ray, {"log_to_driver": False}):
        assert [options["address"] for options in ray.starts] == ["local"] * 3
        assert ray.ended == 2
        [folder] = root.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert ray.ended == 3
    assert list(root.iterdir()) == []
    lines = capsys.readouterr().out.splitlines()
    assert [
        re.fullmatch(r"Ray did not start \(.{2,80}\); starting it again in \d+ s", line) is None for line in lines
    ] == [
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("error", "starts"),
    [
        (Exception(TIMED_OUT), 4),
        (RuntimeError("Failed\n" + 2000 * "x"), 4),
        (ValueError("no such option"), 1),
        (RuntimeError("Version mismatch: The cluster was started with: Ray: 1"), 1),
    ],
)
def test_ray_that_never_starts_is_explained_in_one_line(root, error, starts):
    ray = Ray(*[error] * 10)
    with pytest.raises(StageError) as caught, local_ray(ray, {}):
        pytest.fail("there is no Ray")
    said = str(caught.value)
    assert len(ray.starts) == starts
    assert said.startswith(f"Ray does not start ({' '.join(str(error).split())[:40]}")
    assert "GB of memory" in said
    assert "/dev/shm" in said
    [folder] = root.iterdir()
    assert f"its logs are in {folder}/session_latest/logs" in said
    assert len(said.splitlines()) == 1
    assert len(said) < 800


def test_the_folder_of_a_killed_process_is_removed_by_the_next(root):
    with pytest.raises(StageError), local_ray(Ray(*[OSError("no")] * 10), {}):
        pass
    (root / "sl-ray-new").mkdir()
    (root / "other").mkdir()
    old = root / "sl-ray-old"
    old.mkdir()
    os.utime(old, (1, 1))
    with local_ray(Ray(), {}), local_ray(Ray(), {}):
        live = [path for path in root.iterdir() if (path / "session_1").exists()]
        assert len(live) == 2
        assert {path.name for path in root.iterdir()} - {path.name for path in live} == {"sl-ray-new", "other"}


def test_a_long_folder_for_temporary_files_is_not_used(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    ray = Ray()
    with local_ray(ray, {}):
        folder = ray.starts[0]["_temp_dir"]
        assert folder.startswith("/tmp/")
        sockets = f"{folder}/session_2026-11-28_05-27-48_123456_4194304/sockets/plasma_store"
        assert len(sockets) <= 107
    assert not Path(folder).exists()


def test_without_any_short_folder_the_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 100)))
    monkeypatch.setattr(ray_start, "OTHER_ROOTS", ())
    with pytest.raises(StageError, match="set TMPDIR to a short one"), local_ray(Ray(), {}):
        pass


def closed_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "localhost:{}", "no-such-host.invalid:6379"])
def test_a_cluster_that_does_not_answer_is_told_within_seconds(monkeypatch, address):
    monkeypatch.setattr(ray_start, "KNOCK_S", 1.0)
    monkeypatch.setenv("RAY_ADDRESS", address.format(closed_port()))
    began = time.monotonic()
    with (
        pytest.raises(StageError, match=r"^RAY_ADDRESS .*: no Ray answers there \(.*\); start the cluster"),
        ray_session(),
    ):
        pytest.fail("there is no cluster")
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("address", ["auto", "local", "here"])
def test_an_address_without_a_port_is_left_to_ray(address):
    ray = Ray(ValueError("Malformed address"))
    expected = r"^Ray does not start \(Malformed address\); .*RAY_ADDRESS"
    with pytest.raises(StageError, match=expected), joined_ray(ray, {}, address):
        pass
    assert "_temp_dir" not in ray.starts[0]


def test_a_cluster_that_answers_is_joined_and_left():
    with socket.create_server(("127.0.0.1", 0)) as server:
        ray = Ray()
        with joined_ray(ray, {"log_to_driver": False}, f"127.0.0.1:{server.getsockname()[1]}"):
            assert ray.starts == [{"log_to_driver": False}]
    assert ray.ended == 1


@pytest.mark.slow
def test_a_real_ray_leaves_nothing_behind_although_tmpdir_is_long(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_session() as resources:
        import ray  # it reads its settings when it is imported

        assert resources["CPU"] >= 1
        folder = Path(ray._private.worker._global_node.get_session_dir_path()).parent
        assert folder.name.startswith("sl-ray-")
    assert not folder.exists()
    assert list(long.iterdir()) == []

"""The recorder on a real MLflow server that is killed and started again, and on a real database."""

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from threading import Event, current_thread

import pytest
import requests
from mlflow.exceptions import MlflowException
from servers import forward, serving

from segline.errors import TrackingError
from segline.tracking import recorder
from segline.tracking.client import Experiment
from segline.tracking.recorder import Recorder
from segline.tracking.runs import start_run
from segline.tracking.tags import KEY


class Server:
    """An MLflow server on a port and a database of its own; it can be killed and started again."""

    def __init__(self, folder, port):
        self.folder, self.process = folder, None
        self.uri = f"http://127.0.0.1:{port}"
        # One process that answers; no jobs, which need many more.
        words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        words += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/files"]
        # The shell ends with whoever holds its stdin, and takes the server along: also when the tests are killed.
        tied = '"$@" & cat; kill -9 0'
        self.words = ["sh", "-c", tied, "sh", sys.executable, "-m", "mlflow", *words]
        self.environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

    def start(self):
        if self.process:
            return
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                self.words, env=self.environment, stdin=subprocess.PIPE, stdout=log, stderr=log, process_group=0
            )
        for _ in range(4000):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.05)
        raise AssertionError("the server does not answer")

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process = None


@pytest.fixture(scope="module")
def one_server(empty_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = Server(folder, port)
    yield server
    if server.process:
        server.kill()


@pytest.fixture
def server(one_server):
    one_server.start()
    return one_server


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(recorder, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(recorder, "LONGEST_PAUSE_S", 0.2)


@pytest.fixture
def candidate(tmp_path):
    folder = tmp_path / "candidate"
    folder.mkdir()
    for name in ("weights.bin", "model.json", "history.csv"):
        (folder / name).write_text(f"the {name}")
    return folder


class Stored:
    """What is in a database of MLflow, read without MLflow."""

    def __init__(self, path):
        self.path = path

    def read(self, query):
        connection = sqlite3.connect(self.path)
        rows = connection.execute(query).fetchall()
        connection.close()
        return rows

    @property
    def states(self):
        return dict(self.read("SELECT name, status FROM runs"))

    @property
    def metrics(self):
        """Of every run its metrics with the number of times they are there."""
        query = "SELECT name, key, step, value FROM metrics JOIN runs USING (run_uuid) WHERE is_nan = 0"
        found = {name: Counter() for name, _ in self.read("SELECT name, status FROM runs")}
        for name, *metric in self.read(query):
            found.setdefault(name, Counter())[tuple(metric)] += 1  # a run may be made between the two queries
        return found

    def tags(self, name):
        query = f"SELECT key, value FROM tags JOIN runs USING (run_uuid) WHERE name = '{name}'"
        return dict(self.read(query))


def stored(experiment):
    return Stored(experiment.database)


def start(experiment, name="grid"):
    return start_run(experiment, f"key of {name}", name, {}, {})


def record(epoch):
    return {"epoch": epoch, "train_loss": 1 / epoch, "val_miou": epoch / 100, "system/memory_gb": 2.5}


def once(*epochs):
    """The metrics of these epochs, each there once."""
    wanted = {name for name in record(1) if name != "epoch"}
    return Counter({(name, epoch, record(epoch)[name]): 1 for epoch in epochs for name in wanted})


def add_epochs(recording, name, epochs):
    for epoch in epochs:
        recording.add(name, record(epoch))


@pytest.fixture
def asked(monkeypatch):
    """The last part of the address of every request to MLflow, and the thread that sent it."""
    requested, send = [], requests.Session.request

    def request(session, method, url, **more):
        requested.append((url.rpartition("/")[2], current_thread().name))
        return send(session, method, url, **more)

    monkeypatch.setattr(requests.Session, "request", request)
    return requested


def wait_until(condition):
    for _ in range(2400):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it does not come about")


def said(capsys):
    return capsys.readouterr().out.splitlines()


def test_a_server_that_is_killed_and_comes_back_has_everything_once(server, candidate, asked, capsys):
    experiment, database = Experiment(server.uri, "killed"), Stored(server.folder / "mlflow.db")
    parent = start(experiment, "parent")
    asked.clear()
    with Recorder(experiment, parent) as recording:
        recording.open("unet", "of unet", {"loss": "dice"}, {"color": "red"})
        recording.open("fcn", "of fcn", {}, {})
        add_epochs(recording, "unet", range(1, 6))
        wait_until(lambda: database.metrics.get("unet") == once(*range(1, 6)))
        server.kill()
        add_epochs(recording, "unet", range(6, 9))
        time.sleep(0.5)
        add_epochs(recording, "fcn", range(1, 4))
        recording.close("unet", "FINISHED", tags={"best": "8"}, folder=candidate)
        recording.open("deeplab", "of deeplab", {}, {})
        add_epochs(recording, "deeplab", range(1, 3))
        server.start()
        wait_until(lambda: database.metrics.get("deeplab") == once(1, 2))
        add_epochs(recording, "fcn", range(1, 6))
        recording.close("fcn", "FAILED")
        recording.close("deeplab", "FINISHED")
    # No call waits for MLflow: only the thread speaks to it.
    assert {thread for _, thread in asked} == {"recorder"}
    metrics = database.metrics
    assert metrics["unet"] == once(*range(1, 9))
    assert metrics["fcn"] == once(*range(1, 6))
    assert metrics["deeplab"] == once(1, 2)
    names = ("parent", "unet", "fcn", "deeplab")
    assert [database.states[name] for name in names] == ["FINISHED", "FINISHED", "FAILED", "FINISHED"]
    assert database.tags("unet") | {"mlflow.parentRunId": parent, "best": "8"} == database.tags("unet")
    (folder,) = (server.folder / "files").rglob("model")
    assert subprocess.check_output(["diff", "-r", candidate, folder]) == b""
    assert said(capsys) == [
        f"train: MLflow at {server.uri} does not answer (Connection refused); training goes on, records follow",
        f"train: MLflow at {server.uri} answers again",
    ]


def test_an_epoch_is_one_request(server, asked):
    experiment = Experiment(server.uri, "requests")
    parent = start(experiment, "requests")
    asked.clear()
    database = Stored(server.folder / "mlflow.db")
    with Recorder(experiment, parent) as recording:
        for name in ("one", "two"):
            recording.open(name, f"of {name}", {"loss": "dice"}, {})
        for epoch in range(1, 6):
            for name in ("one", "two"):
                recording.add(name, record(epoch))
            for name in ("one", "two"):
                wait_until(lambda name=name, epoch=epoch: database.metrics.get(name) == once(*range(1, epoch + 1)))
        for name in ("one", "two"):
            recording.close(name, "FINISHED")
    assert Counter(name for name, _ in asked) == {"search": 2, "create": 2, "log-batch": 2 * (1 + 5), "update": 2 + 1}


def test_what_was_written_but_not_answered_is_there_once(server):
    """The server has done it, but its answer is lost; MLflow's own client would send it again."""
    lost, good = ["runs/create", "runs/log-batch", "runs/update"], forward(server.uri)

    def answer(handler):
        done = good(handler)
        for end in [end for end in lost if handler.path.endswith(end)]:
            lost.remove(end)
            raise ConnectionResetError
        return done

    parent = start(Experiment(server.uri, "lost"), "lost")
    with serving(answer) as between, Recorder(Experiment(between.address, "lost"), parent) as recording:
        recording.open("torn", "of torn", {}, {})
        add_epochs(recording, "torn", range(1, 4))
        recording.close("torn", "FINISHED")
    database = Stored(server.folder / "mlflow.db")
    assert lost == []
    assert database.read("SELECT status FROM runs WHERE name = 'torn'") == [("FINISHED",)]
    assert database.metrics["torn"] == once(1, 2, 3)


def test_what_a_server_that_stays_away_did_not_get_is_written_by_the_next(server, candidate, capsys):
    """The next one writes into the server's database: that is quicker than to start the server again."""
    experiment, database = Experiment(server.uri, "away"), Stored(server.folder / "mlflow.db")
    parent = start(experiment, "away")

    def train():
        with Recorder(experiment, parent, patience_s=0.6) as recording:
            recording.open("late", "of late", {"loss": "dice"}, {})
            add_epochs(recording, "late", range(1, 4))
            wait_until(lambda: database.metrics.get("late") == once(1, 2, 3))
            server.kill()
            add_epochs(recording, "late", range(4, 8))
            recording.close("late", "FINISHED", folder=candidate)

    with pytest.raises(TrackingError) as caught:
        train()
    unanswered = re.sub(r"late \((4|5|6|7) epochs", "late (some epochs", str(caught.value))  # the kill may be quicker
    assert unanswered == (
        f"MLflow at {server.uri} did not answer (Connection refused), so this is not written: late (some epochs, its"
        " end, its files), the grid (its end); the candidates are safe on disk, and the same command writes the rest"
    )
    assert database.states["late"] == database.states["away"] == "RUNNING"
    shown = said(capsys)
    assert len(shown) == 1
    assert "does not answer (Connection refused)" in shown[0]

    direct = Experiment(f"sqlite:///{database.path}", "away")
    with Recorder(direct, start(direct, "away")) as recording:
        recording.open("late", "of late", {"loss": "dice"}, {})
        add_epochs(recording, "late", range(1, 8))
        recording.close("late", "FINISHED")
    assert database.metrics["late"] == once(*range(1, 8))
    assert database.states["late"] == database.states["away"] == "FINISHED"
    assert said(capsys) == []


def test_the_same_records_from_a_restarted_driver_are_written_once(experiment, candidate):
    for epochs in (range(1, 4), range(1, 6), range(1, 6)):
        with Recorder(experiment, start(experiment)) as recording:
            recording.open("unet", "of unet", {"loss": "dice"}, {"epochs": str(len(epochs))})
            add_epochs(recording, "unet", epochs)
            recording.close("unet", "FINISHED", folder=candidate)
    found = stored(experiment)
    assert found.metrics["unet"] == once(*range(1, 6))
    assert found.states == {"grid": "FINISHED", "unet": "FINISHED"}
    assert found.tags("unet") | {"epochs": "5", KEY: "of unet"} == found.tags("unet")
    (folder,) = (experiment.database.parent / "artifacts").rglob("model")
    assert subprocess.check_output(["diff", "-r", candidate, folder]) == b""


def test_a_run_may_be_opened_again(experiment, candidate):
    with Recorder(experiment, start(experiment)) as recording:
        for pause in (0.0, 0.5, 0.0):
            for epoch in range(1, 4):
                recording.open("unet", "of unet", {"loss": "dice"}, {})
                recording.add("unet", record(epoch))
            recording.close("unet", "FINISHED", folder=candidate)
            time.sleep(pause)
    assert stored(experiment).metrics["unet"] == once(1, 2, 3)
    assert stored(experiment).states == {"grid": "FINISHED", "unet": "FINISHED"}


def test_a_deleted_run_that_is_handed_in_again_is_there(experiment):
    with Recorder(experiment, start(experiment)) as recording:
        recording.open("unet", "of unet", {}, {})
        recording.add("unet", record(1))
        wait_until(lambda: stored(experiment).metrics.get("unet") == once(1))
        (run,) = [run for run in experiment.client.search_runs([experiment.id]) if run.info.run_name == "unet"]
        experiment.client.delete_run(run.info.run_id)
        recording.add("unet", record(2))
        recording.close("unet", "FINISHED")
        wait_until(lambda: "unet" not in recording._runs)
        recording.open("unet", "of unet", {}, {})
        add_epochs(recording, "unet", [1, 2])
        recording.close("unet", "FINISHED")
    (run,) = [run for run in experiment.client.search_runs([experiment.id]) if run.info.run_name == "unet"]
    assert run.info.status == "FINISHED"
    history = experiment.client.get_metric_history(run.info.run_id, "val_miou")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.01), (2, 0.02)]


def test_records_handed_in_together_are_one_request(experiment, monkeypatch):
    write, sizes, in_time = type(experiment.client).log_batch, [], []
    reached, released = Event(), Event()

    def log_batch(client, run, metrics=(), **more):
        reached.set()
        in_time.append(released.wait(60))
        sizes.append(len(metrics))
        write(client, run, metrics=metrics, **more)

    parent = start(experiment)
    monkeypatch.setattr(type(experiment.client), "log_batch", log_batch)
    with Recorder(experiment, parent) as recording:
        recording.open("unet", "of unet", {"loss": "dice"}, {})
        assert reached.wait(60)
        add_epochs(recording, "unet", [*range(1, 401), *range(1, 401)])  # returns while MLflow does not
        released.set()
        recording.close("unet", "FINISHED")
    assert all(in_time)
    # The parameters, then 400 epochs of three metrics; what follows are the ends of the two runs.
    assert [size for size in sizes if size] == [999, 201]
    assert stored(experiment).metrics["unet"] == once(*range(1, 401))


@pytest.mark.parametrize(
    ("error", "state"),
    [(KeyboardInterrupt, "KILLED"), (GeneratorExit, "KILLED"), (SystemExit, "KILLED"), (ValueError, "FAILED")],
)
def test_an_ended_block_leaves_nothing_running(experiment, error, state):

    def train():
        with Recorder(experiment, start(experiment)) as recording:
            for name in ("unet", "fcn"):
                recording.open(name, f"of {name}", {}, {})
            recording.add("unet", record(1))
            recording.close("fcn", "FINISHED")
            raise error

    with pytest.raises(error):
        train()
    assert stored(experiment).states == {"grid": state, "unet": state, "fcn": "FINISHED"}
    assert stored(experiment).metrics["unet"] == once(1)


def test_a_run_that_was_never_closed_has_failed(experiment):
    with Recorder(experiment, start(experiment)) as recording:
        recording.open("unet", "of unet", {}, {})
    assert stored(experiment).states == {"grid": "FINISHED", "unet": "FAILED"}


def test_an_error_of_the_block_wins(experiment, monkeypatch, capsys):
    parent = start(experiment)

    def away(*_, **__):
        raise MlflowException("nobody is there")

    monkeypatch.setattr(type(experiment.client), "search_runs", away)

    def train():
        with Recorder(experiment, parent, patience_s=0) as recording:
            recording.open("unet", "of unet", {}, {})
            recording.add("unet", record(1))
            raise ValueError("of training")

    with pytest.raises(ValueError, match="of training") as caught:
        train()
    (note,) = caught.value.__notes__
    assert "did not answer (nobody is there), so this is not written: unet (its start, 1 epoch, its end)" in note
    assert said(capsys)[-1] == f"train: {note}"


def test_patience_has_an_end(silent_experiment, asked):
    """The address accepts connections and never answers."""

    def train():
        with Recorder(silent_experiment, "parent", patience_s=0.5) as recording:
            recording.open("unet", "of unet", {}, {})
            add_epochs(recording, "unet", range(1, 100))

    begun = time.monotonic()
    with pytest.raises(TrackingError, match=r"no answer in time.*same command writes the rest$"):
        train()
    assert time.monotonic() - begun < recorder.PATIENCE_S
    assert {thread for _, thread in asked} == {"recorder"}


@pytest.fixture
def silent_experiment(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield Experiment(f"http://127.0.0.1:{listening.getsockname()[1]}", "streets")


def test_patience_begins_when_the_block_ends(experiment, monkeypatch, capsys):
    """MLflow was away for longer than that before."""
    parent, write, tries, back = start(experiment), type(experiment.client).log_batch, [], Event()

    def log_batch(*words, **more):
        tries.append(words)
        if not back.is_set():
            raise MlflowException("nobody is there")
        return write(*words, **more)

    monkeypatch.setattr(type(experiment.client), "log_batch", log_batch)

    def log(text):
        print(text)
        if "waiting at most" in text:
            back.set()

    monkeypatch.setattr(recorder, "log", log)
    monkeypatch.setattr(recorder, "LONGEST_PAUSE_S", 60.0)
    monkeypatch.setattr(recorder, "FIRST_PAUSE_S", 0.2)
    with Recorder(experiment, parent, patience_s=20) as recording:
        recording.open("unet", "of unet", {}, {})
        recording.add("unet", record(1))
        wait_until(lambda: len(tries) > 2)
    assert stored(experiment).metrics["unet"] == once(1)
    assert [line.partition(" (")[0] for line in said(capsys)] == [
        f"train: MLflow at {experiment.uri} does not answer",
        f"train: waiting at most 20 s for MLflow at {experiment.uri}",
        f"train: MLflow at {experiment.uri} answers again",
    ]


def test_a_short_trouble_is_not_told(experiment, monkeypatch, capsys):
    parent, write, troubles = start(experiment), type(experiment.client).log_batch, [1, 0]

    def log_batch(*words, **more):
        if troubles and troubles.pop():
            raise MlflowException("the connection was closed")
        return write(*words, **more)

    monkeypatch.setattr(type(experiment.client), "log_batch", log_batch)
    with Recorder(experiment, parent) as recording:
        recording.open("unet", "of unet", {}, {})
        recording.add("unet", record(1))
    assert stored(experiment).metrics["unet"] == once(1)
    assert said(capsys) == []


def test_a_run_that_is_deleted_meanwhile_holds_no_other(experiment, candidate, capsys):

    def train():
        with Recorder(experiment, start(experiment)) as recording:
            for name in ("unet", "fcn"):
                recording.open(name, f"of {name}", {}, {})
                recording.add(name, record(1))
            wait_until(lambda: stored(experiment).metrics.get("fcn") == once(1))
            (run,) = [run for run in experiment.client.search_runs([experiment.id]) if run.info.run_name == "unet"]
            experiment.client.delete_run(run.info.run_id)
            for name in ("unet", "fcn"):
                recording.add(name, record(2))
            recording.add("unet", record(3))
            for name in ("unet", "fcn"):
                recording.close(name, "FINISHED", folder=candidate)

    with pytest.raises(TrackingError, match=re.escape(f"MLflow at {experiment.uri} rejected unet (")) as caught:
        train()
    assert "\n" not in str(caught.value)
    assert stored(experiment).states["fcn"] == stored(experiment).states["grid"] == "FINISHED"
    assert stored(experiment).metrics["fcn"] == once(1, 2)
    assert len(said(capsys)) == 1


def test_a_record_that_is_refused_leaves_nothing_running(experiment):
    def train():
        with Recorder(experiment, start(experiment)) as recording:
            recording.open("unet", "of unet", {}, {})
            recording.add("unet", record(1))
            wait_until(lambda: stored(experiment).metrics.get("unet") == once(1))
            recording.add("unet", {"epoch": 2, "no#name": 1.0})
            recording.add("unet", record(3))
            recording.close("unet", "FINISHED", tags={"best": "1"})

    with pytest.raises(TrackingError, match="rejected unet"):
        train()
    assert stored(experiment).states == {"grid": "FINISHED", "unet": "FINISHED"}
    assert stored(experiment).metrics["unet"] == once(1)


def test_files_that_are_not_there_are_told(experiment, tmp_path):
    def train():
        with Recorder(experiment, start(experiment)) as recording:
            recording.open("unet", "of unet", {}, {})
            recording.close("unet", "FINISHED", folder=tmp_path / "none")

    with pytest.raises(TrackingError, match=r"rejected unet .*none has no files"):
        train()
    assert stored(experiment).states == {"grid": "FINISHED", "unet": "FINISHED"}


def test_a_store_of_files_in_trouble_holds_no_record_and_no_end(experiment, candidate, monkeypatch):
    tried = Event()

    def away(*_):
        tried.set()
        raise OSError("the bucket is away")

    def train():
        with Recorder(experiment, start(experiment), patience_s=0) as recording:
            for name in ("unet", "fcn"):
                recording.open(name, f"of {name}", {}, {})
            recording.close("unet", "FINISHED", folder=candidate)
            assert tried.wait(60)
            recording.add("fcn", record(1))
            recording.close("fcn", "FINISHED")

    monkeypatch.setattr(recorder, "log_artifacts", away)
    with pytest.raises(TrackingError, match=r"bucket is away\), so this is not written: unet \(its files\);"):
        train()
    assert stored(experiment).states == {"grid": "FINISHED", "unet": "FINISHED", "fcn": "FINISHED"}
    assert stored(experiment).metrics["fcn"] == once(1)


def test_a_name_that_was_not_opened_is_our_own_fault(experiment):
    with Recorder(experiment, start(experiment)) as recording:
        with pytest.raises(AssertionError, match="unet"):
            recording.add("unet", record(1))
        with pytest.raises(AssertionError, match="unet"):
            recording.close("unet", "FINISHED")


@pytest.mark.slow
def test_a_locked_database_is_tried_again(experiment, capfd):
    """MLflow itself waits 20 s for a lock, and then gives up."""
    with Recorder(experiment, start(experiment)) as recording:
        recording.open("unet", "of unet", {}, {})
        recording.add("unet", record(1))
        wait_until(lambda: stored(experiment).metrics.get("unet") == once(1))
        other = sqlite3.connect(experiment.database, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        begun = time.monotonic()
        add_epochs(recording, "unet", [2, 3])
        assert time.monotonic() - begun < 10
        time.sleep(45)
        other.close()
        recording.close("unet", "FINISHED")
    shown = capfd.readouterr()
    assert [line.partition(" (")[0] for line in shown.out.splitlines()] == [
        f"train: MLflow at {experiment.uri} does not answer",
        f"train: MLflow at {experiment.uri} answers again",
    ]
    assert "database is locked" in shown.out
    assert shown.err == ""
    assert stored(experiment).metrics["unet"] == once(1, 2, 3)
    assert stored(experiment).states == {"grid": "FINISHED", "unet": "FINISHED"}

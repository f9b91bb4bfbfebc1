"""The connection to MLflow: where it is, how long it is waited for, and how its errors are told."""

import os
import re
import socket
import subprocess
import sys

import pytest
import requests
from mlflow.exceptions import MlflowException

from segline.errors import TrackingError
from segline.tracking.client import Experiment, override_settings, short_reason
from segline.tracking.runs import start_run


def start(experiment):
    return start_run(experiment, "key", "unet-dice", {}, {})


def test_a_new_database_lies_in_a_new_folder(tmp_path, empty_store):
    path = tmp_path / "new" / "folder" / "mlflow.db"
    experiment = Experiment(f"sqlite:///{path}", "streets")
    run = start(experiment)
    assert path.is_file()
    assert experiment.client.get_run(run).info.artifact_uri.startswith((path.parent / "artifacts").as_uri())


@pytest.mark.parametrize("name", ["p%20q", "p?q", "p?a=b&c", "p#q", "p%2Fq", "p q", "ü+;:@q"])
def test_a_folder_may_have_any_name(tmp_path, name):
    """In an address ``?`` begins a query and ``%20`` is a space."""
    folder = tmp_path / name
    experiment = Experiment(f"sqlite:///{folder}/mlflow.db", "streets")
    run = start(experiment)
    (tmp_path / "notes.txt").write_text("here", encoding="utf-8")
    experiment.client.log_artifact(run, str(tmp_path / "notes.txt"))
    assert len(list(folder.glob("artifacts/*/artifacts/notes.txt"))) == 1
    assert (folder / "mlflow.db").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "notes.txt"])
    again = Experiment(f"sqlite:///{folder}/mlflow.db", "streets")
    assert again.client.get_run(run).info.run_name == "unet-dice"


def test_a_server_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(TrackingError, match=re.escape(f"--tracking-uri {uri} cannot be reached (")) as caught:
        start(Experiment(uri, "streets"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["sqlite:////proc/none/mlflow.db", "ftp://there", "nonsense://"])
def test_an_address_that_cannot_be_is_named(uri):
    with pytest.raises(TrackingError, match=re.escape(f"--tracking-uri {uri} cannot be reached (")):
        start(Experiment(uri, "streets"))


@pytest.fixture
def silent():
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_is_silent_does_not_hold_for_long(silent, monkeypatch):
    """One request, which waits as long as the user's settings say."""
    timeouts, send = [], requests.Session.request

    def request(session, method, url, **options):
        timeouts.append(options["timeout"])
        return send(session, method, url, **options)

    monkeypatch.setattr(requests.Session, "request", request)
    with (
        override_settings(MLFLOW_HTTP_REQUEST_TIMEOUT=1, MLFLOW_HTTP_REQUEST_MAX_RETRIES=0),
        pytest.raises(TrackingError, match=rf"{silent} cannot be reached \(no answer in time\)"),
    ):
        start(Experiment(silent, "streets"))
    assert timeouts == [1]


def test_mlflow_is_not_waited_for_for_minutes():
    """A minute for a silent server in all: three tries, and the pauses between them."""
    code = (
        "import segline.tracking.runs, mlflow.environment_variables as e; print(e.MLFLOW_HTTP_REQUEST_TIMEOUT.get() *"
    )
    code += " (1 + e.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()))"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    assert int(subprocess.check_output([sys.executable, "-c", code], env=clean)) <= 60


def test_the_settings_are_made_before_mlflow_is_imported():
    """Whichever module of the package is first: the package itself makes them, and does not import MLflow."""
    code = "import os, sys, segline.tracking; print('mlflow' in sys.modules, os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    for given, expected in ({}, "true"), ({"MLFLOW_DISABLE_TELEMETRY": "false"}, "false"):
        done = subprocess.check_output([sys.executable, "-c", code], env=clean | given, text=True)
        assert done.split() == ["False", expected]


def test_a_password_is_not_told(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=re.escape("http://127.0.0.1:1 cannot be reached (Connection refused)")):
        start(Experiment("http://me:secret@127.0.0.1:1", "streets"))


def test_reasons_are_short():
    assert short_reason(ValueError()) == "ValueError"
    untrusted = MlflowException("HTTPSConnectionPool(...): SSLError([SSL: CERTIFICATE_VERIFY_FAILED] self-signed)")
    assert "set REQUESTS_CA_BUNDLE" in short_reason(untrusted)
    assert short_reason(FileNotFoundError(2, "No such file", "/a/b")) == "[Errno 2] No such file: '/a/b'"
    assert short_reason(MlflowException("at http://a:b@host/api\nmore")) == "at http://host/api"


def test_settings_hold_within_their_block(monkeypatch):
    monkeypatch.setenv("MLFLOW_ONE", "1")
    monkeypatch.delenv("MLFLOW_TWO", raising=False)
    with override_settings(MLFLOW_ONE=3, MLFLOW_TWO=4):
        assert (os.environ["MLFLOW_ONE"], os.environ["MLFLOW_TWO"]) == ("3", "4")
    assert os.environ["MLFLOW_ONE"] == "1"
    assert "MLFLOW_TWO" not in os.environ

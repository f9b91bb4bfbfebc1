"""Secrets are neither shown nor stored, whatever they look like; what is no secret stays."""

import json
import os
import subprocess
import sys
import time

import pytest

from segline.artifacts.promotion import PROMOTION, read_decision, write_decision
from segline.cli import main
from segline.config.sections import Ingest
from segline.data.sources import open_source
from segline.errors import SourceError
from segline.files.atomic import write_json
from segline.files.tracebacks import DEBUG
from segline.redaction import has_login, redact
from segline.tracking.client import Experiment

SECRETS = [
    "https://ann:Hush7@example.org/data.zip",
    "https://Hush7@example.org/data.zip",
    "https://ann:Hush7@x@example.org:8443/data.zip",
    "https://ann:Hush7/x@example.org/data.zip",
    "https://ann:Hush7?x@example.org/data.zip",
    "https://ann:Hush7#x@example.org/data.zip",
    "https://ann:Hush7@example.org/a://b",
    "dvc://https://ann:Hush7@example.org/data.git",
    "postgresql+psycopg2://ann:Hush7%2Fx@db:5432/mlflow",
    "a-word-of-more-than-thirty-letters-in-front://ann:Hush7@db/mlflow",
    "s3://AKIA:Hush7@bucket/prefix",
    "https://b.s3.amazonaws.com/a.zip?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=Hush7&X-Amz-Expires=60",
    "https://b.s3.amazonaws.com/a.zip?X-Amz-Security-Token=Hush7",
    "https://storage.googleapis.com/b/a.zip?X-Goog-Signature=Hush7",
    "https://a.blob.core.windows.net/c/a.zip?sv=2024&sig=Hush7%3D&se=2030",
    "https://cdn.example.org/a.zip?Expires=1&Signature=Hush7&Key-Pair-Id=Hush7",
    "https://example.org/a.zip?X%2DAmz%2DSignature=Hush7",
    "https://example.org/a.zip?api_key=Hush7;x=1",
    "https://example.org/a.zip#access_token=Hush7",
    "https://example.org/a.zip?download=Hush7aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "https://example.org/a.zip?Hush7aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "could not connect: host=db user=ann password=Hush7 dbname=x",
    "AWS_SECRET_ACCESS_KEY=Hush7",
    "Authorization: Bearer Hush7aaaa",
    "Authorization: Basic Hush7aaaa",
    "ghp_Hush7aaaaaaaaaaaaaaaa is no good",
]
PLAIN = [
    "https://example.org:8443/data/v2.zip?version=3&download=1#top",
    "http://localhost:5000/@ann/x",
    "http://[::1]:5000/a@b",
    "sqlite:////srv/mlruns/a@b/mlflow.db",
    "s3://bucket/prefix/of@2024",
    "dvc://../wad-data",
    "git@github.com:org/data.git",
    "label.crop: got 7, expected a multiple of 32; --set label.crop=64",
    "two of ann@example.org, https://example.org and bob@example.org",
]


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_hidden(text):
    assert "Hush7" not in redact(text)
    assert "Hush7" not in redact(f'{{"uri":"{text}"}} and more')
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text
    assert not has_login(text)


@pytest.mark.parametrize(
    "piece", ["https://", "a", "://a:b", "a=", "x.", "https://a:", "&sig=", "bearer ", "//@", "?", "a-"]
)
def test_the_time_is_linear_in_the_length(piece):
    """A megabyte takes a fraction of a second; quadratic time would be minutes."""
    started = time.process_time()
    redact(piece * (2**20 // len(piece)))
    assert time.process_time() - started < 20


@pytest.mark.parametrize("source", ["https://ann:Hush7@localhost/a.zip", "s3://key:Hush7@bucket/x"])
def test_a_source_with_a_login_is_refused(source, tmp_path):
    with pytest.raises(SourceError, match="was given with a login") as raised:
        open_source(Ingest(source=source), 0, tmp_path / "files")
    assert "Hush7" not in str(raised.value)


def test_a_decision_has_no_login_when_it_is_written_or_read(tmp_path):
    decision = {"promoted": True, "tracking_uri": "https://ann:Hush7@mlflow.example.org", "lower_bound": 0.5}
    write_decision(tmp_path, decision)
    PROMOTION.write_mark(tmp_path)
    assert "Hush7" not in (tmp_path / "decision.json").read_text(encoding="utf-8")
    shown = {**decision, "tracking_uri": "https://mlflow.example.org"}
    assert read_decision(tmp_path) == shown
    write_json(tmp_path / "decision.json", decision)
    PROMOTION.write_mark(tmp_path)
    assert read_decision(tmp_path) == shown
    assert "Hush7" not in json.dumps(PROMOTION.metadata(tmp_path))


def test_a_tracking_address_is_shown_without_its_login():
    assert Experiment("https://ann:Hush7@mlflow.example.org", "x").shown_uri == "https://mlflow.example.org"


def test_an_error_of_the_command_line_has_no_login(capsys):
    uri = "https://ann:Hush7@127.0.0.1:1/"
    assert main(["registry", "list", "--name", "streets", "--tracking-uri", uri]) == 7
    said = capsys.readouterr()
    assert "127.0.0.1:1" in said.err
    assert "Hush7" not in said.out + said.err


def test_a_traceback_has_no_login(tmp_path):
    code = (
        "import segline.cli as cli; cli.load = lambda *_: (_ for _ in ()).throw(ValueError("
        "'https://ann:Hush7@example.org is odd')); cli.main(['ingest'])"
    )
    for debug in ("", "1"):
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), DEBUG: debug}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert "ValueError: https://example.org is odd" in done.stderr
        assert "Hush7" not in done.stdout + done.stderr.replace(code, "")
    texts = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.txt")]
    assert ["ValueError: https://example.org is odd" in text for text in texts] == [True]
    assert "Hush7" not in "".join(texts)

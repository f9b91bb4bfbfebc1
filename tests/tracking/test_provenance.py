"""Keys, the version of the code, and the environment, none of which needs MLflow."""

import hashlib
import os
import subprocess
import sys

from segline.tracking import provenance
from segline.tracking.provenance import code_version, environment_hash, key


def test_provenance_imports_no_mlflow():
    code = "import sys, segline.tracking.provenance, segline.tracking.tags; print('mlflow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_a_key_tells_its_parts_apart():
    assert len({key("ab", "c"), key("a", "bc"), key("abc"), key("ab", "c", ""), key("c", "ab")}) == 5
    assert key("a", 1) == key("a", "1")


def test_the_code_version_is_that_of_git(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_version() == {}

    def git(*words):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        return subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    git("commit", "--allow-empty", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert code_version() == {"mlflow.source.git.commit": commit, "mlflow.source.git.dirty": "false"}
    (tmp_path / "new").touch()
    assert code_version() == {"mlflow.source.git.commit": commit, "mlflow.source.git.dirty": "true"}


def test_without_git_there_is_no_code_version_and_a_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SEGLINE_COMMIT", raising=False)
    assert code_version() == {}
    assert "set SEGLINE_COMMIT to record one" in capsys.readouterr().out
    monkeypatch.setenv("SEGLINE_COMMIT", "abc")
    assert code_version() == {"mlflow.source.git.commit": "abc"}
    assert capsys.readouterr().out == ""


def test_a_git_that_does_not_end_is_left(tmp_path, monkeypatch):
    """It knows the commit at once, but looks at the files for ever."""
    slow = tmp_path / "git"
    slow.write_text('#!/bin/sh\n[ "$2" = rev-parse ] && echo abc || exec sleep 60\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "GIT_TIMEOUT_S", 3.0)
    assert code_version() == {"mlflow.source.git.commit": "abc"}


def test_the_environment_is_every_distribution_with_its_version(tmp_path, monkeypatch):
    for folder, metadata in {
        "one/zlib_ng-2.0": "Name: zlib_ng\nVersion: 2.0\n",
        "one/A.b-1.0": "Name: A.b\nVersion: 1.0\n",
        "two/A.b-1.0": "Name: A.b\nVersion: 1.0\n",
        "two/nameless-1.0": "Version: 1.0\n",
    }.items():
        (tmp_path / f"{folder}.dist-info").mkdir(parents=True)
        (tmp_path / f"{folder}.dist-info" / "METADATA").write_text(metadata)
    (tmp_path / "two" / "torn-1.0.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "one"), str(tmp_path / "two")])
    assert environment_hash.__wrapped__() == hashlib.sha256(b"a-b==1.0\nzlib-ng==2.0").hexdigest()

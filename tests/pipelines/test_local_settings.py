"""What a run in local containers gets of the caller's environment."""

import pytest

pytest.importorskip("kfp")
pytest.importorskip("docker")

from pipelines import local
from pipelines.environment import FILES, OPTIONAL_SETTINGS


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    for name in OPTIONAL_SETTINGS:
        monkeypatch.delenv(name, raising=False)


def test_settings_go_on_and_their_files_are_at_the_same_path(tmp_path, monkeypatch):
    path = tmp_path / "ca.crt"
    path.write_text("a certificate", encoding="utf-8")
    for name, value in {"AWS_CA_BUNDLE": path, "SSL_CERT_FILE": path, "AWS_REQUEST_PAYER": "requester"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t")
    settings = local._settings()
    assert (settings["AWS_CA_BUNDLE"], settings["AWS_REQUEST_PAYER"], settings["AWS_SESSION_TOKEN"]) == (
        str(path),
        "requester",
        "t",
    )
    assert "AWS_CONFIG_FILE" not in settings
    (mount,) = local._files()
    assert mount == {"Target": str(path), "Source": str(path), "Type": "bind", "ReadOnly": True}


@pytest.mark.parametrize("name", FILES)
def test_a_variable_that_names_no_file_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, str(tmp_path / "nothing"))
    with pytest.raises(local.LocalError, match=f"{name}: there is no file"):
        local._files()

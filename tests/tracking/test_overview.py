"""``segline registry`` on a registry of 0.1, which MLflow alone wrote; see test_upgrade."""

import re

import pytest
from test_upgrade import old  # noqa: F401 - a fixture

from segline.cli import main
from segline.errors import ParamsError, TrackingError
from segline.tracking import history
from segline.tracking.registry import get_by_alias, get_version, set_alias


@pytest.fixture
def registry(old, tracking_uri, capsys):  # noqa: F811
    """Run the command with these words; returns the exit code, the lines and the error."""

    def run(*words):
        capsys.readouterr()
        code = main(["registry", *words, "--name", "streets", "--tracking-uri", tracking_uri])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return run


def test_versions_and_their_aliases_are_listed(registry):
    code, lines, _ = registry("list")
    assert code == 0
    assert [line.split()[:3] for line in lines] == [["v1", "0.5000", "champion"], ["v2", "0.5000", "challenger,"]]
    assert "rolled back" in lines[1]


@pytest.mark.parametrize("which", ["champion", "1", "v1"])
def test_a_version_is_shown(registry, which):
    code, lines, _ = registry("show", which)
    assert (code, lines[0]) == (0, "streets v1")
    assert "  aliases: champion" in lines
    assert "  decision.reason: it is the first" in lines


@pytest.mark.parametrize("which", ["7", "nobody"])
def test_a_version_that_is_not_there_is_an_error(registry, which):
    code, _, error = registry("show", which)
    assert code == TrackingError.exit_code
    assert f"streets has no version {which}; `segline registry list --name streets` shows all" in error


def test_a_rollback_goes_back_to_what_0_1_noted(registry, experiment):
    """0.1 made version 2 champion after version 1; the alias is moved by hand in between."""
    set_alias(experiment, "champion", get_version(experiment, 2))
    experiment.client.delete_model_version_tag("streets", "2", "segline.rolled_back")
    code, lines, _ = registry("rollback", "--reason", "too  dark\nat night")
    assert (code, len(lines)) == (0, 1)
    assert (get_by_alias(experiment, "champion").number, get_by_alias(experiment, "previous")) == (1, None)
    assert get_version(experiment, 2).tags["segline.rolled_back"] == "too dark at night"
    assert get_version(experiment, 2).tags["segline.previous_champion"] == "1"
    changes = history.changes(experiment)
    assert [(change.before, change.version, change.kind) for change in changes] == [
        (None, 1, "promoted"),
        (1, 2, "unrecorded"),
        (2, 1, "rolled back"),
    ]
    assert changes[-1].why == "too dark at night"
    assert "@" in changes[-1].who
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", changes[-1].when)
    code, lines, _ = registry("history")
    assert [re.search(r"\S+ -> \S+", line)[0] for line in lines] == ["none -> v1", "v1 -> v2", "v2 -> v1"]


def test_a_rollback_that_was_cut_off_is_repeated(registry, experiment, monkeypatch):
    set_alias(experiment, "champion", get_version(experiment, 2))
    experiment.client.delete_model_version_tag("streets", "2", "segline.rolled_back")
    with monkeypatch.context() as patch:
        patch.setattr("segline.tracking.registry.set_alias", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert registry("rollback", "--reason", "dark")[0] == 130
    assert get_by_alias(experiment, "champion").number == 2
    assert registry("rollback", "--reason", "dark")[0] == 0
    assert get_by_alias(experiment, "champion").number == 1


def test_an_empty_reason_is_refused(registry):
    assert registry("rollback", "--reason", "  ")[0] == ParamsError.exit_code


@pytest.mark.parametrize("action", [("list",), ("show",), ("history",), ("rollback", "--reason", "dark")])
def test_no_registry_is_created(action, tmp_path, capsys):
    uri = f"sqlite:///{tmp_path}/none/mlflow.db"
    assert main(["registry", *action, "--name", "streets", "--tracking-uri", uri]) == TrackingError.exit_code
    assert "does not exist; `segline promote` creates it" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()

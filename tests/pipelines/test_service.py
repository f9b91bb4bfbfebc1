"""The requests to Kubeflow, against a server that checks each of them, and that fails in the ways of real ones."""

import itertools
import re
import socket
import urllib.error
import urllib.request
import warnings

import pytest
import yaml

pytest.importorskip("kfp")

import kfp_server_api
from kfp import Client
from kfp_server import Fault, faults, kubeflow
from servers import certificate, serving

from pipelines import __main__ as program
from pipelines import client, service
from pipelines.client import ServiceError
from pipelines.cron import CronError
from pipelines.service import Service
from pipelines.training import DeploymentConfig, compile_to

GIVEN = {"name": "streets", "seed": 7, "promotion": True, "train": '{"epochs": 3}'}
NIGHTLY, WEEKLY = "0 0 3 * * *", "0 0 3 * * 1"
OTHER_STATUSES = [pytest.param(status, marks=pytest.mark.slow) for status in (429, 500, 502, 504)]
TRANSIENT = pytest.mark.parametrize("status", [503, 0, *OTHER_STATUSES])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Shorten all pauses, and remove the settings of this machine's user."""
    for name, value in {"FIRST_PAUSE_S": 0.002, "LONGEST_PAUSE_S": 0.01, "PATIENCE_S": 0.05}.items():
        monkeypatch.setattr(client, name, value)
    monkeypatch.setattr(service, "POLL_S", 0.001)
    for name in ("ENDPOINT", "UI_ENDPOINT", "DEFAULT_EXPERIMENT_NAME", "OVERRIDE_EXPERIMENT_NAME", "SA_TOKEN_PATH"):
        monkeypatch.delenv(f"KF_PIPELINES_{name}", raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setattr("kfp.client.Client._LOCAL_KFP_CONTEXT", "/nowhere/context.json")


@pytest.fixture
def server():
    with kubeflow() as held:
        yield held


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Return the real pipeline, compiled."""
    path = tmp_path_factory.mktemp("compiled") / "segline.yaml"
    compile_to(path, DeploymentConfig())
    return path


def small(folder, image):
    """Write a package with some parameters of the real one, which is slow to read."""
    kinds = {"name": "STRING", "seed": "NUMBER_INTEGER", "promotion": "BOOLEAN", "train": "STRING"}
    parameters = {name: {"parameterType": kind} for name, kind in kinds.items()}
    root = {"dag": {"tasks": {}}, "inputDefinitions": {"parameters": parameters}}
    path = folder / "segline.yaml"
    path.write_text(yaml.safe_dump({"pipelineInfo": {"name": "segline"}, "root": root, "image": image}))
    return path


@pytest.fixture
def package(tmp_path):
    return small(tmp_path, "segline/train:0.2.0")


@pytest.fixture
def other_package(tmp_path):
    (tmp_path / "other").mkdir()
    return small(tmp_path / "other", "segline/train:0.3.0")


def connect(server):
    return Service(server.address, "team")


def listed(server):
    """Return the lines that `list` prints for the schedules."""
    reached = connect(server)
    return [reached.describe_schedule(schedule) for schedule in reached.schedules()]


def message(info):
    """Return the error's text, which must be one line."""
    text = str(info.value)
    assert "\n" not in text
    return text


def made_schedule(server, package, name="nightly", cron=NIGHTLY, given=GIVEN):
    return connect(server).schedule(package, given, name=name, cron=cron)


def names_sent(server, call):
    return [body for name, body in server.sent if name == call]


# Connecting


def test_a_healthy_server_is_asked_once_and_warns_of_nothing(server, capfd):
    connect(server)
    assert server.asked == ["get_healthz"]
    assert capfd.readouterr() == ("", "")


def test_a_server_that_is_not_there_gives_one_line(capfd):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(ServiceError) as info:
        Service(address, "team")
    assert "Connection refused" in message(info)
    assert address in message(info)
    assert capfd.readouterr() == ("", "")


def test_a_server_that_breaks_off_gives_one_line(server):
    server.down = True
    with pytest.raises(ServiceError) as info:
        connect(server)
    assert re.search(r"GET http\S*/healthz: [^()']*; is the address right", message(info))


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(client, "ANSWER_S", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ServiceError) as info:
        Service(f"http://127.0.0.1:{silent.getsockname()[1]}", "team")
    assert "timed out" in message(info)


@pytest.mark.parametrize("endpoint", ["", "localhost:8080", "ftp://kubeflow", "https://"])
def test_a_wrong_endpoint_is_reported(endpoint):
    with pytest.raises(ServiceError) as info:
        Service(endpoint, "team")
    assert "http://host:port" in message(info)


def test_a_slash_at_the_end_of_the_address_does_not_matter(server):
    Service(server.address + "/", "team")
    assert server.asked == ["get_healthz"]


def test_a_page_to_log_in_is_no_kubeflow(server):
    server.page_to_log_in = True
    with pytest.raises(ServiceError) as info:
        connect(server)
    assert "<html>Log in" in message(info)
    assert "SEGLINE_KUBEFLOW_TOKEN" in message(info)


@pytest.mark.parametrize("body", [b"[]", b"null", b'"fine"', b"{", b""])
def test_json_that_is_no_object_is_reported(body):
    """The API's client itself would take it for an empty answer."""
    with serving(lambda _: (200, {"Content-Type": "application/json"}, body)) as other:
        with pytest.raises(ServiceError) as info:
            Service(other.address, "team")
        assert len(other.asked) == 1
    assert repr(body.decode()) in message(info)


def test_an_untrusted_certificate_is_reported(tmp_path):
    _, tls = certificate(tmp_path)
    with serving(lambda _: (200, {}, b"{}"), tls) as other, pytest.raises(ServiceError) as info:
        Service(other.address, "team")
    assert "CERTIFICATE_VERIFY_FAILED" in message(info)
    assert "SSL_CERT_FILE" in message(info)


def test_a_certificate_of_a_private_authority_may_be_trusted(tmp_path, monkeypatch):
    path, tls = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with serving(lambda _: (200, {"Content-Type": "application/json"}, b"{}"), tls) as other:
        Service(other.address, "team")
        assert len(other.asked) == 1


def test_without_a_token_where_one_is_wanted(server):
    server.token = "secret"
    with pytest.raises(ServiceError) as info:
        connect(server)
    assert "401" in message(info)
    assert "SEGLINE_KUBEFLOW_TOKEN" in message(info)
    assert server.asked == ["get_healthz"]


def test_the_token_is_read_again_for_every_request(server, tmp_path):
    file = tmp_path / "token"
    file.write_text("first\n")
    server.token = "first"
    reached = Service(server.address, "team", file)
    file.write_text("second\n")
    server.token = "second"
    assert reached.schedules() == []
    assert server.tokens == ["Bearer first", "Bearer second"]


def test_the_tokens_file_may_come_from_the_environment(server, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("secret")
    server.token = "secret"
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    connect(server)


@pytest.mark.parametrize(
    "content", [None, b"", b"\n", b"two\nlines", b"two words", "k\u00e9y".encode(), b"\xff\xfe\x00"]
)
def test_a_file_without_a_token_is_reported(server, tmp_path, content):
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ServiceError) as info:
        Service(server.address, "team", file)
    assert str(file) in message(info)
    assert server.asked == []


@TRANSIENT
def test_a_request_is_repeated_after_a_transient_fault(server, status):
    server.faults = [Fault("get_healthz", status)]
    connect(server)


def test_a_lasting_fault_is_reported_in_kubeflows_words(server):
    server.faults = [Fault("get_healthz", 500) for _ in range(50)]
    with pytest.raises(ServiceError) as info:
        connect(server)
    assert "500 as wanted" in message(info)
    assert len(server.asked) > 2


def test_with_several_users_a_namespace_is_wanted():
    with kubeflow(multi_user=True) as server, pytest.raises(ServiceError) as info:
        Service(server.address, "")
    assert "--namespace" in message(info)


@pytest.mark.parametrize("multi_user", [False, True])
def test_a_namespace_means_nothing_with_one_user(multi_user, capsys):
    with kubeflow(multi_user=multi_user) as server:
        words = ["list", "--endpoint", server.address]
        assert program.main(words) == 0
        assert program.main([*words, "--namespace", "other"]) == (0 if multi_user else 2)
    assert (
        "--namespace: got 'other', but this Kubeflow has one user and no namespaces" in capsys.readouterr().err
    ) is not multi_user


# Running


def test_a_run_belongs_to_a_version_and_an_experiment(server, compiled, capsys):
    given = GIVEN | {"exclusions": "s3://bucket/key"}
    run_id = connect(server).run(compiled, given, name="one", service_account="runner")
    run = server.runs[run_id]
    version = server.versions[run["pipeline_version_reference"]["pipeline_version_id"]]
    assert server.files[version["pipeline_version_id"]] == compiled.read_bytes()
    assert server.pipelines[version["pipeline_id"]]["display_name"] == "segline"
    assert server.experiments[run["experiment_id"]]["display_name"] == "segline"
    assert run["runtime_config"]["parameters"] == given
    assert run["service_account"] == "runner"
    assert f"{server.address}/#/runs/details/{run_id}" in capsys.readouterr().out


def test_the_same_content_is_uploaded_once(server, package, other_package):
    for file in (package, other_package, package):
        connect(server).run(file, GIVEN, name="one")
    assert server.asked.count("upload_pipeline_version") == 2
    assert (len(server.pipelines), len(server.experiments), len(server.runs)) == (1, 1, 3)


def test_with_several_users_all_is_made_in_the_namespace(package):
    with kubeflow(multi_user=True) as server:
        reached = connect(server)
        reached.run(package, GIVEN, name="one")
        reached.schedule(package, GIVEN, name="nightly", cron=NIGHTLY)
        made = [*server.pipelines.values(), *server.experiments.values(), *server.recurring_runs.values()]
        assert {entry["namespace"] for entry in made} == {"team"}
        assert len(made) == 3
        assert (len(reached.runs()), len(reached.schedules())) == (1, 1)
        assert Service(server.address, "others").schedules() == []


def test_with_one_user_no_namespace_is_sent(server, package):
    made_schedule(server, package)
    assert all("namespace" not in body for _, body in server.sent)


@pytest.mark.parametrize(
    ("default", "override", "expected"), [("", "", "segline"), ("usual", "", "usual"), ("usual", "forced", "forced")]
)
def test_the_experiment_is_chosen_as_kfp_does(server, package, monkeypatch, default, override, expected):
    monkeypatch.setenv("KF_PIPELINES_DEFAULT_EXPERIMENT_NAME", default)
    monkeypatch.setenv("KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME", override)
    connect(server).run(package, GIVEN, name="one")
    assert [entry["display_name"] for entry in server.experiments.values()] == [expected]


def test_the_address_of_the_pages_may_be_another(server, package, monkeypatch, capsys):
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://pages.example.org/")
    connect(server).run(package, GIVEN, name="one")
    assert "https://pages.example.org/#/runs/details/run-" in capsys.readouterr().out


def test_an_argument_that_the_pipeline_lacks_is_reported(server, package):
    with pytest.raises(ServiceError) as info:
        connect(server).run(package, {"speed": 3}, name="one")
    assert "400 unknown runtime parameter speed" in message(info)


MADE = pytest.mark.parametrize(
    ("call", "table"),
    [
        ("create_pipeline", "pipelines"),
        ("upload_pipeline_version", "versions"),
        ("create_experiment", "experiments"),
        ("create_run", "runs"),
    ],
)


@MADE
@TRANSIENT
@pytest.mark.parametrize("done", [False, True])
def test_a_lost_answer_makes_nothing_twice(server, package, call, table, status, done):
    server.faults = [Fault(call, status, done)]
    connect(server).run(package, GIVEN, name="one")
    assert len(getattr(server, table)) == 1


@pytest.mark.parametrize("call", ["create_pipeline", "upload_pipeline_version", "create_experiment"])
def test_what_somebody_else_has_just_made_is_used(server, package, call):
    server.faults = [Fault(call, 409, done=True)]
    connect(server).run(package, GIVEN, name="one")
    assert len(server.runs) == 1


def test_a_conflict_with_what_does_not_exist_is_reported(server, package):
    server.faults = [Fault("create_experiment", 409) for _ in range(50)]
    with pytest.raises(ServiceError) as info:
        connect(server).run(package, GIVEN, name="one")
    assert "409" in message(info)


@pytest.mark.parametrize("name", ["a+b", "100 %", "a&b=c", "größer", 'quote"d', "a%20b"])
def test_a_name_with_special_signs_is_found_again(server, package, name, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_DEFAULT_EXPERIMENT_NAME", name)
    reached = connect(server)
    for _ in range(2):
        reached.run(package, GIVEN, name=name)
        reached.schedule(package, GIVEN, name=name, cron=NIGHTLY)
    assert [entry["display_name"] for entry in server.experiments.values()] == [name]
    assert len(server.recurring_runs) == 1


# Waiting


def states(*names):
    return [{"state": name} for name in names]


def test_each_change_of_the_state_is_one_line(server, package, capsys):
    server.states["one"] = states("PENDING", "PENDING", "RUNNING", "RUNNING", "RUNNING", "SUCCEEDED")
    run_id = connect(server).run(package, GIVEN, name="one", wait=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [f"pipelines: run {run_id} {state}" for state in ("pending", "running", "succeeded")]


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "SKIPPED"])
def test_a_run_that_does_not_succeed_is_an_error(server, package, state):
    server.states["one"] = states("RUNNING", state)
    with pytest.raises(ServiceError) as info:
        connect(server).run(package, GIVEN, name="one", wait=True)
    assert state.lower() in message(info)
    assert "/#/runs/details/" in message(info)


def test_a_failed_run_names_its_failed_tasks(server, package):
    details = {
        "task_details": [
            {"display_name": "ingest", "state": "SUCCEEDED"},
            {"display_name": "train", "state": "FAILED", "error": {"code": 13, "message": "out of\nmemory"}},
        ]
    }
    server.states["one"] = [{"state": "FAILED", "error": {"code": 2, "message": "a task"}, "run_details": details}]
    with pytest.raises(ServiceError) as info:
        connect(server).run(package, GIVEN, name="one", wait=True)
    assert "failed (a task); failed: train (out of memory); see" in message(info)


def test_ctrl_c_leaves_the_run_and_says_so(server, package, monkeypatch, capsys):
    server.states["one"] = states("RUNNING")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(service.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        connect(server).run(package, GIVEN, name="one", wait=True)
    assert "goes on" in capsys.readouterr().out.splitlines()[-1]
    assert "terminate_run" not in server.asked
    assert next(iter(server.runs.values()))["state"] == "RUNNING"


def test_waiting_outlives_a_server_that_is_away(server, package, monkeypatch):
    """It is away for longer than any other request would be repeated."""
    monkeypatch.setattr(client, "PATIENCE_S", 0.0)
    server.faults = [Fault("get_run", status) for status in (503, 0, 500, 0, 502, 0, 504)]
    server.states["one"] = states("RUNNING", "SUCCEEDED")
    connect(server).run(package, GIVEN, name="one", wait=True)


def test_waiting_gives_up_on_a_server_that_stays_away(server, package, monkeypatch):
    monkeypatch.setattr(service, "OUTAGE_S", 0.05)
    server.states["one"] = [{"state": "RUNNING"}, lambda: setattr(server, "down", True)]
    with pytest.raises(ServiceError) as info:
        connect(server).run(package, GIVEN, name="one", wait=True)
    assert "itself goes on" in message(info)


# Scheduling


def test_a_schedule_is_as_asked_for(server, package, capsys, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_DEFAULT_EXPERIMENT_NAME", "nights")
    made = connect(server).schedule(package, GIVEN, name="nightly", cron="0  0 3 *  * *", service_account="runner")
    entry = server.recurring_runs[made]
    assert entry["trigger"] == {"cron_schedule": {"cron": NIGHTLY}}
    assert (entry["max_concurrency"], entry["no_catchup"], entry["status"]) == ("1", True, "ENABLED")
    assert (entry["service_account"], entry["runtime_config"]["parameters"]) == ("runner", GIVEN)
    assert server.experiments[entry["experiment_id"]]["display_name"] == "nights"
    assert "'nightly' made" in capsys.readouterr().out


@pytest.mark.parametrize("cron", ["0 3 * * *", "@every 1h", "0 0 25 * * *", ""])
def test_a_wrong_cron_text_is_refused_before_any_request(server, package, cron):
    reached = connect(server)
    with pytest.raises(CronError) as info:
        reached.schedule(package, GIVEN, name="nightly", cron=cron)
    assert "cron" in message(info)
    assert server.asked == ["get_healthz"]


def test_the_same_again_changes_nothing(server, package, capsys):
    first = made_schedule(server, package)
    server.asked = []
    assert made_schedule(server, package, cron=" 0 0 3 * * *") == first
    assert all(call.startswith(("list", "get")) for call in server.asked)
    assert "nothing was changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change", [{"cron": WEEKLY}, {"given": GIVEN | {"seed": 8}}, {"package": "other"}, {"experiment": "another"}]
)
def test_another_content_replaces(server, package, other_package, change, capsys, monkeypatch):
    first = made_schedule(server, package)
    wanted = {"cron": NIGHTLY, "given": GIVEN, "package": "", "experiment": ""} | change
    monkeypatch.setenv("KF_PIPELINES_DEFAULT_EXPERIMENT_NAME", wanted["experiment"])
    second = made_schedule(
        server, other_package if wanted["package"] else package, cron=wanted["cron"], given=wanted["given"]
    )
    assert list(server.recurring_runs) == [second]
    assert second != first
    assert server.recurring_runs[second]["status"] == "ENABLED"
    assert max(server.enabled) == 1
    assert "replaced" in capsys.readouterr().out


def test_a_replaced_schedules_run_goes_on(server, package):
    first = made_schedule(server, package)
    run_id = connect(server).run(package, GIVEN, name="in progress")
    server.runs[run_id]["recurring_run_id"] = first
    made_schedule(server, package, cron=WEEKLY)
    assert server.killed == []
    connect(server).unschedule("nightly")
    assert server.killed == []


def test_a_disabled_schedule_is_enabled(server, package, capsys):
    first = made_schedule(server, package)
    server.disable_recurring_run(first)
    assert made_schedule(server, package) == first
    assert server.recurring_runs[first]["status"] == "ENABLED"
    assert "'nightly' enabled" in capsys.readouterr().out


def test_others_are_left_alone(server, package):
    others = {made_schedule(server, package, name) for name in ("weekly", "Nightly", "nightly 2")}
    made_schedule(server, package)
    made_schedule(server, package, cron=WEEKLY)
    assert connect(server).unschedule("nightly") == 1
    assert set(server.recurring_runs) == others
    assert all(entry["status"] == "ENABLED" for entry in server.recurring_runs.values())


@TRANSIENT
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(
    "call", ["create_recurring_run", "disable_recurring_run", "enable_recurring_run", "delete_recurring_run"]
)
def test_a_transient_fault_does_not_matter(server, package, call, status, done):
    made_schedule(server, package)
    server.faults = [Fault(call, status, done)]
    second = made_schedule(server, package, cron=WEEKLY)
    assert not server.faults
    assert list(server.recurring_runs) == [second]
    assert server.recurring_runs[second]["status"] == "ENABLED"
    assert max(server.enabled) == 1


@pytest.mark.parametrize("call", ["create_recurring_run", "disable_recurring_run", "enable_recurring_run"])
def test_after_a_refusal_the_old_goes_on(server, package, call):
    first = made_schedule(server, package)
    server.faults = [Fault(call, 403)]
    with pytest.raises(ServiceError) as info:
        made_schedule(server, package, cron=WEEKLY)
    assert "403" in message(info)
    assert list(server.recurring_runs) == [first]
    assert server.recurring_runs[first]["status"] == "ENABLED"
    assert max(server.enabled) == 1


def test_ctrl_c_between_leaves_the_old(server, package, monkeypatch, capsys):
    first = made_schedule(server, package)
    reached = connect(server)
    enable = reached._client.enable_recurring_run

    def interrupted(schedule_id):
        if schedule_id != first:
            raise KeyboardInterrupt
        enable(schedule_id)

    monkeypatch.setattr(reached._client, "enable_recurring_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reached.schedule(package, GIVEN, name="nightly", cron=WEEKLY)
    assert [entry["status"] for entry in server.recurring_runs.values()] == ["ENABLED"]
    assert "is as it was before" in capsys.readouterr().out


@pytest.mark.parametrize("again", [WEEKLY, NIGHTLY, "0 0 4 * * *"])
@pytest.mark.parametrize("call", ["create", "disable", "enable", "delete"])
@pytest.mark.parametrize("done", [False, True])
def test_a_kill_at_any_moment_is_set_right_by_the_next_command(server, package, call, done, again):
    """The server is down from the request on, whether that was carried out or not, so that nothing can be undone."""
    made_schedule(server, package)
    server.faults = [Fault(f"{call}_recurring_run", 0, done, then=lambda: setattr(server, "down", True))]
    with pytest.raises(ServiceError) as info:
        made_schedule(server, package, cron=WEEKLY)
    assert not server.faults
    left = [entry["status"] for entry in server.recurring_runs.values()]
    if call in ("disable", "enable") and left.count("ENABLED") == 0:
        assert "give the same command again" in message(info)
    server.down = False
    last = made_schedule(server, package, cron=again)
    assert list(server.recurring_runs) == [last]
    assert server.recurring_runs[last]["status"] == "ENABLED"
    assert server.recurring_runs[last]["trigger"]["cron_schedule"]["cron"] == again
    assert max(server.enabled) == 1


@pytest.mark.parametrize("kept", [NIGHTLY, WEEKLY])
@pytest.mark.parametrize("enabled", list(itertools.product([False, True], repeat=3)), ids=str)
def test_several_of_a_name_become_one(server, package, kept, enabled):
    ids = [made_schedule(server, package, f"n{number}") for number in range(3)]
    entries = [server.recurring_runs[schedule_id] for schedule_id in ids]
    made_schedule(server, package)
    (real,) = [entry for entry in server.recurring_runs.values() if entry["display_name"] == "nightly"]
    for entry, is_enabled in zip(entries, enabled, strict=True):
        entry.update(display_name="nightly", status="ENABLED" if is_enabled else "DISABLED")
        entry["description"] = real["description"] if is_enabled else "by hand"
    server.enabled = []
    last = made_schedule(server, package, cron=kept)
    assert list(server.recurring_runs) == [last]
    assert server.enabled[-1] == 1


def test_all_pages_are_read(package):
    with kubeflow(page=2) as server:
        for number in range(7):
            made_schedule(server, package, f"schedule {number}")
        (entry, *_) = server.recurring_runs.values()
        for number in range(5):
            identity = f"double-{number}"
            double = {"recurring_run_id": identity, "display_name": "schedule 0", "description": "by hand"}
            server.recurring_runs[identity] = entry | double
        reached = connect(server)
        assert len(reached.schedules()) == 12
        assert [schedule.display_name for schedule in reached.schedules()][:2] == ["schedule 6", "schedule 5"]
        assert reached.unschedule("schedule 0") == 6
        assert len(server.recurring_runs) == 6
        for _ in range(5):
            reached.run(package, GIVEN, name="one")
        assert len(reached.runs()) == 5
        assert [run.run_id for run in reached.runs(3)] == sorted(server.runs, reverse=True)[:3]


def test_unschedule_twice(server, package, capsys):
    made_schedule(server, package)
    assert connect(server).unschedule("nightly") == 1
    assert connect(server).unschedule("nightly") == 0
    assert "there is no schedule 'nightly'" in capsys.readouterr().out


@pytest.mark.parametrize("done", [False, True])
def test_unschedule_takes_what_is_gone_for_deleted(server, package, done):
    made_schedule(server, package)
    server.faults = [Fault("delete_recurring_run", 0, done)]
    assert connect(server).unschedule("nightly") == 1
    assert server.recurring_runs == {}


# Listing


def test_a_run_is_one_line(server, package):
    reached = connect(server)
    assert reached.runs() == []
    reached.run(package, GIVEN, name="one")
    run_id = reached.run(package, GIVEN, name="two")
    server.runs[run_id]["state"] = "RUNNING"
    two, one = [reached.describe_run(run).split("  ") for run in reached.runs()]
    assert (one[1], one[2]) == ("one", "pending")
    created = server.runs[run_id]["created_at"].replace("T", " ")[:16] + " UTC"
    assert two == [f"run {run_id}", "two", "running", created, f"{server.address}/#/runs/details/{run_id}"]


def test_a_schedule_is_one_line(server, package):
    made = made_schedule(server, package)
    (line,) = listed(server)
    created = server.recurring_runs[made]["created_at"].replace("T", " ")[:16] + " UTC"
    link = f"{server.address}/#/recurringrun/details/{made}"
    assert line.split("  ") == [f"schedule {made}", "nightly", f"'{NIGHTLY}'", "enabled", created, link]


def test_a_schedule_that_somebody_made_otherwise_is_listed(server, package):
    made_schedule(server, package)
    (entry,) = server.recurring_runs.values()
    entry["trigger"] = {"periodic_schedule": {"interval_second": "3600"}}
    (line,) = listed(server)
    assert line.split("  ")[2] == "''"


# The server itself


def test_the_server_refuses_what_is_not_as_published(server, package):
    """kfp.Client's own default is a number where the model has text."""
    connect(server).run(package, GIVEN, name="one")
    (version,) = server.versions.values()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        client = Client(host=server.address, namespace="team")
    ids = {"pipeline_id": version["pipeline_id"], "version_id": version["pipeline_version_id"]}
    with pytest.raises(kfp_server_api.ApiException, match="400"):
        client.create_recurring_run(version["pipeline_id"], "one", cron_expression=NIGHTLY, **ids)
    assert server.wrong == ["body.max_concurrency: 1 is no str"]
    server.wrong.clear()


@pytest.mark.parametrize("path", ["/apis/v2beta1/nothing", "/apis/v1beta1/runs", "/apis/v2beta1/runs?speed=3"])
def test_the_server_records_an_unpublished_request(server, path):
    with pytest.raises(urllib.error.HTTPError) as info:
        urllib.request.urlopen(server.address + path)
    info.value.close()
    assert len(server.wrong) == 1
    server.wrong.clear()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"speed": 3}, "body.speed: not in V2beta1Run"),
        ({"display_name": 3}, "body.display_name: 3 is no str"),
        ({"state": "GOOD"}, "body.state: 'GOOD' is none of"),
        ({"created_at": "today"}, "body.created_at: 'today' is no moment"),
        ({"runtime_config": {"parameter": {}}}, "body.runtime_config.parameter: not in V2beta1RuntimeConfig"),
        ({"state_history": [{"state": 1}]}, "body.state_history[0].state: 1 is none of"),
    ],
)
def test_a_body_is_compared_with_its_model(change, fault):
    assert faults({"display_name": "one", "experiment_id": "1"}, "V2beta1Run") == []
    (found,) = faults({"experiment_id": "1"} | change, "V2beta1Run")
    assert found.startswith(fault)

"""The options of ``python -m pipelines``: which it accepts, and which it refuses before anything is done."""

import re

import pytest

pytest.importorskip("kfp")

from documented import ROOT, commands

from pipelines import __main__ as program
from pipelines.arguments import ONLY_KUBEFLOW, ONLY_LOCAL, check_options, make_parser
from pipelines.training import DeploymentConfig

ENDPOINT = "--endpoint http://localhost:1"
LOCAL_OPTIONS = ("--folder elsewhere", "--network host")
KUBEFLOW_OPTIONS = (
    "--wait",
    "--no-cache",
    "--rayjob",
    "--name other",
    "--namespace other",
    "--service-account other",
    "--gpus 1",
    "--cpus 8",
    "--memory 32G",
    "--stage-cpus 4",
    "--stage-memory 16G",
    "--stage-gpus 1",
    "--data-cpus 1",
    "--data-memory 4G",
    "--scratch 50Gi",
    "--queue team-a",
    "--priority high",
    "--spot",
    "--when-changed",
    "--digest",
)
DOCUMENTED = [words for file in ("README.md", "docs/kubernetes.md") for words in commands(file, "python -m pipelines")]


@pytest.fixture(autouse=True)
def nothing_is_begun(monkeypatch):
    for name in ("compile_to", "_service", "_run_locally"):
        monkeypatch.setattr(program, name, lambda *_: pytest.fail("it began"))


def refused(words, capsys):
    """Return the faults that it prints, one a line."""
    assert program.main(words.split()) == 2
    heading, *faults = capsys.readouterr().err.splitlines()
    assert heading.endswith("nothing was run")
    return [fault.strip() for fault in faults]


@pytest.mark.parametrize("words", KUBEFLOW_OPTIONS)
def test_an_option_of_kubeflow_is_refused_for_a_local_run(words, capsys):
    name = words.split()[0]
    assert refused(f"run --local {words}", capsys) == [
        f"{name}: has no effect with --local; leave it out, or use --endpoint URL instead"
    ]


@pytest.mark.parametrize("words", LOCAL_OPTIONS)
def test_an_option_of_a_local_run_is_refused_on_kubeflow(words, capsys):
    name = words.split()[0]
    assert refused(f"run {ENDPOINT} --registry r --tag t {words}", capsys) == [
        f"{name}: has no effect with --endpoint; leave it out, or use --local instead"
    ]


def test_every_option_of_run_is_for_local_or_for_kubeflow_or_for_both():
    taken = set(vars(make_parser().parse_args(["run", "--local"])))
    for_both = {"params", "overrides", "exclusions", "no_promotion", "registry", "tag"}
    own = {"command", "default", "local", "endpoint"}
    assert taken - own == for_both | set(ONLY_LOCAL) | set(ONLY_KUBEFLOW)
    assert len(ONLY_LOCAL) == len(LOCAL_OPTIONS)
    assert len(ONLY_KUBEFLOW) == len(KUBEFLOW_OPTIONS)


def test_every_option_of_run_is_documented():
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    for name in vars(make_parser().parse_args(["run", "--local"])).keys() - {"command", "default"}:
        word = "--set" if name == "overrides" else f"--{name.replace('_', '-')}"
        assert re.search(rf"{word}\b", page), word


@pytest.mark.parametrize(
    "start", ["compile", f"run {ENDPOINT} --registry r --tag t", f"schedule {ENDPOINT} --registry r --tag t --cron x"]
)
def test_the_resources_of_training_are_refused_where_a_ray_cluster_trains(start, capsys):
    found = refused(f"{start} --rayjob --gpus 1 --cpus 8 --memory 32G", capsys)
    assert [fault.partition(":")[0] for fault in found] == ["--gpus", "--cpus", "--memory"]


def test_a_run_on_kubeflow_must_name_its_images(capsys):
    registry, tag = refused(f"run {ENDPOINT}", capsys)
    assert registry.startswith("--registry: got none, expected")
    assert tag.startswith("--tag: got none, expected")
    with pytest.raises(SystemExit, match="2"):
        program.main(f"schedule {ENDPOINT} --cron x".split())
    assert "required: --registry, --tag" in capsys.readouterr().err


@pytest.mark.parametrize("start", [f"run {ENDPOINT} --registry r --tag t", "compile"])
@pytest.mark.parametrize(
    ("words", "starts"),
    [
        (
            "--queue a --priority b",
            ["--queue: has no effect with a training", "--priority: has no effect with a training"],
        ),
        ("--rayjob --priority b", ["--priority: has no effect without a queue"]),
    ],
)
def test_a_queue_without_a_ray_cluster_is_refused(start, words, starts, capsys):
    faults = refused(f"{start} {words}", capsys)
    assert len(faults) == len(starts)
    assert all(fault.startswith(begin) for fault, begin in zip(faults, starts, strict=True))


def test_the_options_of_kueue_and_spot_nodes_are_compiled_in():
    words = ["compile", "--rayjob", "--queue", "a", "--priority", "b", "--spot"]
    config = program._deployment(make_parser().parse_args(words))
    assert config == DeploymentConfig(rayjob=True, queue="a", priority="b", spot=True)


def test_a_wrong_cron_text_is_refused_before_any_request(capsys):
    words = f"schedule {ENDPOINT} --registry r --tag t --cron"
    assert program.main([*words.split(), "0 3 * * 1"]) == 2
    assert "got 5 fields, expected 6" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["run --local", "compile"])
def test_the_default_images_are_those_of_make_images(words):
    assert program._deployment(make_parser().parse_args(words.split())) == DeploymentConfig()


def test_an_option_cannot_be_abbreviated(capsys):
    """For list, which has no --name, --name would be short for --namespace."""
    with pytest.raises(SystemExit, match="2"):
        program.main(f"list {ENDPOINT} --name other".split())
    assert "unrecognized arguments: --name" in capsys.readouterr().err


@pytest.mark.parametrize("words", DOCUMENTED, ids=" ".join)
def test_a_documented_command_is_accepted(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = make_parser().parse_args(words)
    check_options(arguments)
    if arguments.command in ("run", "schedule"):
        program._run_deployment(arguments)
        program._pipeline_arguments(arguments)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (
            "--exclusions here.csv",
            "--exclusions: got 'here.csv', which a container cannot read; expected s3://bucket/key",
        ),
        (
            "--set ingest.source=../camvid",
            "ingest.source: got '../camvid', which a container cannot read; expected a source",
        ),
        (
            "--set ingest.source=dvc://../wad",
            "ingest.source: got 'dvc://../wad', which a container cannot read; expected",
        ),
        (
            "--set ingest.source=dvc://git@x.org:wad",
            "ingest.source: got 'dvc://git@x.org:wad', which a container cannot read",
        ),
        ("--set ingest.source=dvc://https://token@x.org/wad.git", "ingest.source: contains a login, which Kubeflow"),
        ("--set label.workers=2", "label.workers: got 2, expected 1, since the image of label has no Ray"),
    ],
)
@pytest.mark.parametrize("start", ["run --local", f"run {ENDPOINT} --registry r --tag t"])
def test_what_a_container_cannot_read_or_do_is_refused(start, words, fault, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    (found,) = refused(f"{start} {words}", capsys)
    assert found.startswith(fault)


def test_to_train_on_drift_alone_and_to_stop_at_drift_exclude_each_other(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = f"run {ENDPOINT} --registry r --tag t --when-changed drift --set validate.severity.drift=stop"
    (fault,) = refused(words, capsys)
    assert fault.startswith("validate.severity.drift: got stop")


def test_all_that_a_container_cannot_do_is_reported_at_once(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = "--exclusions x --set ingest.source=dvc://x --set label.workers=9"
    assert len(refused(f"run --local {words}", capsys)) == 3


def deployment(words):
    return program._run_deployment(make_parser().parse_args(words.split()))


@pytest.mark.parametrize(
    ("workers", "each", "gpus"), [(1, 0, 0), (1, 0.25, 1), (1, 1, 1), (2, 0.5, 1), (3, 0.5, 2), (2, 2, 4)]
)
def test_training_has_the_gpus_that_a_trial_needs(workers, each, gpus, monkeypatch):
    monkeypatch.chdir(ROOT)
    wanted = f"--set train.workers_per_trial={workers} --set train.gpus_per_worker={each}"
    for start in (f"run {ENDPOINT} --registry r --tag t", f"schedule {ENDPOINT} --registry r --tag t --cron x"):
        assert deployment(f"{start} {wanted}").gpus == gpus
        assert deployment(f"{start} {wanted} --gpus {gpus}").gpus == gpus


@pytest.mark.parametrize(
    ("given", "each", "expected"),
    [(1, 0, "got 1, expected 0, since"), (0, 0.5, "got 0, expected 1 or more"), (1, 1.5, "got 1, expected 2 or more")],
)
def test_unused_gpus_and_too_few_are_refused(given, each, expected, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = f"run {ENDPOINT} --registry r --tag t --gpus {given} --set train.gpus_per_worker={each}"
    (fault,) = refused(words, capsys)
    assert fault.startswith(f"--gpus: {expected}")


def test_a_local_run_has_no_gpu(capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(ROOT)
    (fault,) = refused("run --local --set train.gpus_per_worker=1", capsys)
    assert fault == "train.gpus_per_worker: expected 0, since local containers have no GPU"

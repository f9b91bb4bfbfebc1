"""``python -m pipelines``: which words it takes, and which it refuses before anything is done."""

import re

import pytest

pytest.importorskip("kfp")

from documented import ROOT, commands

from pipelines import __main__ as program
from pipelines.training import Site

ENDPOINT = "--endpoint http://localhost:1"
LOCAL_ONLY = ("--folder elsewhere", "--network host")
CLUSTER_ONLY = (
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
)
DOCUMENTED = [words for file in ("README.md", "docs/kubernetes.md") for words in commands(file, "python -m pipelines")]


@pytest.fixture(autouse=True)
def nothing_is_begun(monkeypatch):
    for name in ("compile_to", "_service", "_run_locally"):
        monkeypatch.setattr(program, name, lambda *_: pytest.fail("it began"))


def refused(words, capsys):
    """The faults that it tells, one a line."""
    assert program.main(words.split()) == 2
    heading, *faults = capsys.readouterr().err.splitlines()
    assert heading.endswith("nothing was run")
    return [fault.strip() for fault in faults]


@pytest.mark.parametrize("words", CLUSTER_ONLY)
def test_what_only_kubeflow_has_is_refused_of_a_local_run(words, capsys):
    name = words.split()[0]
    assert refused(f"run --local {words}", capsys) == [
        f"{name}: means nothing with --local; leave it out, or say --endpoint URL instead"
    ]


@pytest.mark.parametrize("words", LOCAL_ONLY)
def test_what_only_a_local_run_has_is_refused_on_kubeflow(words, capsys):
    name = words.split()[0]
    assert refused(f"run {ENDPOINT} --registry r --tag t {words}", capsys) == [
        f"{name}: means nothing with --endpoint; leave it out, or say --local instead"
    ]


def test_every_word_of_run_is_for_one_place_or_for_both():
    taken = set(vars(program._parser().parse_args(["run", "--local"])))
    for_both = {"params", "overrides", "exclusions", "no_promotion", "registry", "tag"}
    own = {"command", "run", "default", "local", "endpoint"}
    assert taken - own == for_both | set(program.LOCALLY) | set(program.ON_KUBEFLOW)
    assert len(program.LOCALLY) == len(LOCAL_ONLY)
    assert len(program.ON_KUBEFLOW) == len(CLUSTER_ONLY)


def test_every_word_of_run_is_documented():
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    for name in vars(program._parser().parse_args(["run", "--local"])).keys() - {"command", "run", "default"}:
        word = "--set" if name == "overrides" else f"--{name.replace('_', '-')}"
        assert re.search(rf"{word}\b", page), word


@pytest.mark.parametrize(
    "start", ["compile", f"run {ENDPOINT} --registry r --tag t", f"schedule {ENDPOINT} --registry r --tag t --cron x"]
)
def test_the_room_of_training_is_refused_where_a_ray_cluster_trains(start, capsys):
    found = refused(f"{start} --rayjob --gpus 1 --cpus 8 --memory 32G", capsys)
    assert [fault.partition(":")[0] for fault in found] == ["--gpus", "--cpus", "--memory"]


def test_a_cluster_is_told_where_its_images_are(capsys):
    registry, tag = refused(f"run {ENDPOINT}", capsys)
    assert registry.startswith("--registry: got none, expected")
    assert tag.startswith("--tag: got none, expected")
    with pytest.raises(SystemExit, match="2"):
        program.main(f"schedule {ENDPOINT} --cron x".split())
    assert "required: --registry, --tag" in capsys.readouterr().err


def test_a_wrong_cron_text_is_told_before_anything_is_asked(capsys):
    words = f"schedule {ENDPOINT} --registry r --tag t --cron"
    assert program.main([*words.split(), "0 3 * * 1"]) == 2
    assert "got 5 fields, expected 6" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["run --local", "compile"])
def test_elsewhere_they_have_the_names_that_make_images_gives(words):
    assert program._site(program._parser().parse_args(words.split())) == Site()


def test_a_word_is_not_taken_for_a_longer_one(capsys):
    """For list, which has no --name, it would be --namespace."""
    with pytest.raises(SystemExit, match="2"):
        program.main(f"list {ENDPOINT} --name other".split())
    assert "unrecognized arguments: --name" in capsys.readouterr().err


@pytest.mark.parametrize("words", DOCUMENTED, ids=" ".join)
def test_a_documented_command_is_taken(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = program._parser().parse_args(words)
    program._check_words(arguments)
    if arguments.command in ("run", "schedule"):
        program._site_for(arguments)
        program._arguments(arguments)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("--exclusions here.csv", "--exclusions: got 'here.csv', which it does not see; expected s3://bucket/key"),
        ("--set ingest.source=../camvid", "ingest.source: got '../camvid', which it does not see; expected such as"),
        ("--set ingest.source=dvc://../wad", "ingest.source: got 'dvc://../wad', which it does not see; expected"),
        ("--set ingest.source=dvc://git@x.org:wad", "ingest.source: got 'dvc://git@x.org:wad', which it does not see"),
        ("--set ingest.source=dvc://https://token@x.org/wad.git", "ingest.source: has a login in it, which Kubeflow"),
        ("--set label.workers=2", "label.workers: got 2, but the image of label has no Ray"),
    ],
)
@pytest.mark.parametrize("start", ["run --local", f"run {ENDPOINT} --registry r --tag t"])
def test_what_a_container_cannot_see_or_do_is_refused(start, words, fault, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    (found,) = refused(f"{start} {words}", capsys)
    assert found.startswith(fault)


def test_all_that_a_container_cannot_do_is_told_at_once(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = "--exclusions x --set ingest.source=dvc://x --set label.workers=9"
    assert len(refused(f"run --local {words}", capsys)) == 3


def site(words):
    return program._site_for(program._parser().parse_args(words.split()))


@pytest.mark.parametrize(
    ("workers", "each", "gpus"), [(1, 0, 0), (1, 0.25, 1), (1, 1, 1), (2, 0.5, 1), (3, 0.5, 2), (2, 2, 4)]
)
def test_training_has_the_gpus_that_a_trial_wants(workers, each, gpus, monkeypatch):
    monkeypatch.chdir(ROOT)
    wanted = f"--set train.workers_per_trial={workers} --set train.gpus_per_worker={each}"
    for start in (f"run {ENDPOINT} --registry r --tag t", f"schedule {ENDPOINT} --registry r --tag t --cron x"):
        assert site(f"{start} {wanted}").gpus == gpus
        assert site(f"{start} {wanted} --gpus {gpus}").gpus == gpus


@pytest.mark.parametrize(
    ("given", "each", "expected"),
    [(1, 0, "got 1, expected 0, for"), (0, 0.5, "got 0, expected 1 or more"), (1, 1.5, "got 1, expected 2 or more")],
)
def test_gpus_that_nobody_uses_and_too_few_are_refused(given, each, expected, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = f"run {ENDPOINT} --registry r --tag t --gpus {given} --set train.gpus_per_worker={each}"
    (fault,) = refused(words, capsys)
    assert fault.startswith(f"--gpus: {expected}")


def test_a_local_run_has_no_gpu(capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(ROOT)
    (fault,) = refused("run --local --set train.gpus_per_worker=1", capsys)
    assert fault == "train.gpus_per_worker: expected 0, as its containers have no GPU"

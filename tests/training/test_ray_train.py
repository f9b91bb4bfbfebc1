"""A trial on several workers: as one process trains, whatever happens to a worker.

The network that is compared has no batch normalisation. On GPUs its statistics are those of the whole batch; PyTorch
cannot do that on CPUs, where each process normalises the rows that it has, and the curves come close but no closer.
"""

import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from shard_files import write_split
from torch import nn

from segline.artifacts.candidates import read_history
from segline.artifacts.dataset import DatasetInfo, write_dataset_info
from segline.classes import LabelClass
from segline.config.components import ComponentSpec
from segline.config.sections import Augment, Train
from segline.data.shards import Crops
from segline.errors import StoppedError, TrainingError
from segline.losses import LOSSES, WeightedSum
from segline.losses.task import Task
from segline.models import MODELS
from segline.parallel import ray_session
from segline.training import ddp as workers
from segline.training.checkpoints import STOP, CheckpointStore
from segline.training.engine import fit
from segline.training.ray_train import MAX_LOSSES, _raise_unless_lost
from segline.training.ray_tune import Asha, Watch, _refuse_too_large, _room, run_trials
from segline.training.run import Run
from segline.training.trial import Trial, TrialConfig, TrialInputs

NAMES = ("dark", "grey", "light")
TRAIN, VAL, BATCH = 11, 5, 4  # the last batch of an epoch has 3 images
CURVES = ("train_loss", "val_loss", "val_miou")
# A zoom, a shift or a rotation brings ignored pixels in, not equally many for each process.
AUGMENT = Augment(scale=0.0, translate=0.0, rotate=0.0, flip_vertical=0.5, saturation=0.2, hue=0.1)
SETTINGS_OF_TRIAL = {"epochs": 30, "batch_size": BATCH, "learning_rate": 0.02, "precision": "fp32", "augment": AUGMENT}


def write_crops(folder, crops, seed):
    """Crops whose class is told by the brightness of the pixel; no pixel is ignored."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, (crops, 4, 4)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    images = (60 + 60 * labels[..., None] + generator.integers(-15, 15, (crops, 32, 32, 3))).astype(np.uint8)
    write_split(folder, images, labels, size=4)


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    write_crops(folder / "train", TRAIN, seed=0)
    write_crops(folder / "val", VAL, seed=1)
    classes = tuple(LabelClass(name, (level, level, level)) for level, name in enumerate(NAMES))
    write_dataset_info(
        folder,
        DatasetInfo(
            classes=classes,
            background=None,
            crop_size=(32, 32),
            content_hash="c",
            source="here",
            source_hash="s",
            source_revision="",
            pixels={},
            test_is_val=False,
        ),
    )
    return folder


def plain_network():
    """A network that learns the brightness, without batch normalisation or dropout. Ray copies a local function."""

    def plain(classes):
        layers = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
        return nn.Sequential(*layers, nn.Conv2d(16, classes, 1))

    return plain


# What belongs to whom


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("images", [1, 2, 3, 4, 7, 8, 16])
def test_each_row_counts_in_one_process_and_every_process_has_one(monkeypatch, count, images):
    monkeypatch.setattr(workers, "world_size", lambda: count)
    seen = []
    for rank in range(count):
        monkeypatch.setattr(workers, "rank", lambda rank=rank: rank)
        rows, is_counted = workers.rows(images)
        assert len(range(images)[rows]) > 0, "every process takes part"
        seen += [*range(images)[rows]] if is_counted else []
    assert sorted(seen) == list(range(images))


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "room"),
    [
        ([{"CPU": 3}, {"CPU": 3}], 1, 0, 6),
        ([{"CPU": 3}, {"CPU": 3}, {}], 2, 0, 2),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 64}], 2, 1, 2),
        ([{"CPU": 8, "GPU": 2}], 1, 0.4, 4),
        ([{"CPU": 80, "GPU": 2}], 1, 0.1, 20),
        ([{"CPU": 8, "GPU": 3}], 1, 2, 1),
    ],
)
def test_a_worker_has_room_on_one_node_or_none(nodes, cpus, gpus, room):
    dead = {"Alive": False, "Resources": {"CPU": 100, "GPU": 100}}
    assert _room([dead, *({"Alive": True, "Resources": there} for there in nodes)], cpus, gpus) == room


# Two processes without Ray


def new_run(dataset_dir, model):
    torch.manual_seed(7)
    return Run(
        model=model(3),
        loss=WeightedSum([(1.0, LOSSES["cross_entropy"](Task(names=NAMES)))]),
        train=Crops(dataset_dir / "train"),
        val=Crops(dataset_dir / "val"),
        classes=3,
        settings=Train(
            **SETTINGS_OF_TRIAL | {"epochs": 3, "gradient_accumulation_steps": 2, "batch_size": 2, "ema_decay": 0.9}
        ),
        seed=7,
        device=torch.device("cpu"),
    )


def weights(run):
    return torch.cat([value.double().ravel() for value in run.ema_model.state_dict().values()])


def train_undisturbed_and_stopped(rank, dataset_dir, out):
    """What each of the two processes does: for each model, a run as it is, and one that is stopped after every step."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
    for name, model in {"plain": plain_network(), "unet": partial(MODELS["unet"], width=2, depth=1)}.items():
        run = new_run(dataset_dir, model)
        history = list(fit(run, out / f"whole-{name}"))
        for _ in range(100):
            cut = new_run(dataset_dir, model)
            cut.stop = lambda rank=rank: rank == 1
            with suppress(StoppedError):
                again = list(fit(cut, out / f"cut-{name}"))
                break
        if rank == 0:
            torch.save({"history": history, "weights": weights(run)}, out / f"{name}.pt")
            torch.save({"history": again, "weights": weights(cut)}, out / f"{name}-cut.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair_of_processes(dataset_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("pair")
    mp.spawn(train_undisturbed_and_stopped, (dataset_dir, out), nprocs=2)
    return {path.stem: torch.load(path, weights_only=False) for path in out.glob("*.pt")}


def curves(history):
    return [[getattr(epoch, name) for name in CURVES] for epoch in history]


@pytest.mark.slow
def test_two_processes_train_as_one(dataset_dir, tmp_path, pair_of_processes):
    run = new_run(dataset_dir, plain_network())
    alone, together = list(fit(run, tmp_path)), pair_of_processes["plain"]
    np.testing.assert_allclose(curves(together["history"]), curves(alone), atol=1e-4)
    torch.testing.assert_close(together["weights"], weights(run), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["plain", "unet"])
def test_two_processes_stopped_after_every_step_end_with_the_same_bits(pair_of_processes, model):
    """Of the first one's statistics too, where each process normalises its own rows."""
    whole, cut = pair_of_processes[model], pair_of_processes[f"{model}-cut"]
    assert curves(cut["history"]) == curves(whole["history"])
    assert torch.equal(cut["weights"], whole["weights"])


# Two nodes


@pytest.fixture(scope="module")
def cluster(ray_settings):
    """Two nodes of one core each on this machine, which this process has joined as Segline joins a foreign cluster."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as changed:
        made = Cluster()
        try:
            made.add_node(num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20)
            made.second = made.add_node(num_cpus=1, object_store_memory=100 * 2**20)
            changed.setenv("RAY_ADDRESS", made.address)
            with ray_session() as there:
                assert there["CPU"] == 2
                yield made
        finally:
            made.shutdown()


def new_trial(dataset_dir, folder, name="trial", *, until=0, **changed):
    settings = Train(**SETTINGS_OF_TRIAL | changed)
    model, loss = ComponentSpec(name="unet"), (ComponentSpec(name="cross_entropy"),)
    config = TrialConfig(name=name, model=model, loss=loss, settings=settings, seed=7)
    return Trial(
        config=config,
        inputs=TrialInputs(dataset_dir=dataset_dir, prepared_dir=dataset_dir.parent / "prepared"),
        folder=folder / name,
        until=until or settings.epochs,
        store=CheckpointStore(""),
    )


def noting(network):
    """Trains, and notes which worker was where and what it did. Ray copies a local function."""

    def train(trial):
        import ray

        from segline.models import MODELS
        from segline.training import ddp as workers
        from segline.training.run_trial import train_trial

        MODELS["unet"] = network
        node = ray.get_runtime_context().get_node_id()
        for record in train_trial(trial):
            how = "trained" if "system/epoch_seconds" in record["metrics"] else "restored"
            with (trial.folder / "notes").open("a") as notes:
                notes.write(f"{workers.rank()} {node} {record['epoch']} {how}\n")
            yield record

    return train


def notes(trial):
    """Rank, node, epoch, and whether it was trained or restored; the last restored one counts as trained."""
    return [tuple(line.split()) for line in (trial.folder / "notes").read_text().splitlines()]


def epochs_after_restored(trial):
    """Of the first worker."""
    return [int(epoch) for rank, _, epoch, how in notes(trial) if (rank, how) == ("0", "trained")]


def train(trials, *, workers=1, cpus=1, on_record=lambda record: None, asha=None, is_stopping=lambda: False):
    """Run trials; returns the epochs' curves of each by name, and what failed."""
    found = {trial.name: [] for trial in trials}

    def watch(record):
        assert record["epoch"] == 1 + len(found[record["trial"]])
        found[record["trial"]].append([record["metrics"][name] for name in CURVES])
        on_record(record)

    watching = Watch(watch, is_stopping=is_stopping)
    return found, run_trials(
        trials, noting(plain_network()), workers=workers, cpus=cpus, gpus=0.0, watch=watching, asha=asha
    )


def assert_all_is_free():
    """No core is taken any more, and no placement group is left."""
    import ray

    deadline = time.monotonic() + 120
    while True:
        groups = {group["state"] for group in ray.util.placement_group_table().values()} - {"REMOVED"}
        free = ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]
        if free and not groups:
            return
        assert time.monotonic() < deadline, (groups, ray.available_resources())
        time.sleep(0.2)


@pytest.fixture(scope="module")
def alone(cluster, dataset_dir, tmp_path_factory):
    """Two trials of one worker each; the curves of the first are what two workers have to come to."""
    folder = tmp_path_factory.mktemp("alone")
    trials = [new_trial(dataset_dir, folder, "one"), new_trial(dataset_dir, folder, "other")]
    found, failed = train(trials)
    assert failed == []
    return SimpleNamespace(trials=trials, curves=found["one"])


@pytest.mark.slow
def test_a_grid_uses_both_nodes(alone):
    nodes = [{node for _, node, _, _ in notes(trial)} for trial in alone.trials]
    assert [len(found) for found in nodes] == [1, 1]
    assert nodes[0] != nodes[1]


@pytest.mark.slow
def test_two_workers_on_two_nodes_train_as_one(cluster, dataset_dir, tmp_path, alone):
    trial = new_trial(dataset_dir, tmp_path)
    found, failed = train([trial], workers=2)
    assert failed == []
    nodes = {rank: {node for told, node, _, _ in notes(trial) if told == rank} for rank in ("0", "1")}
    assert [len(found) for found in nodes.values()] == [1, 1]
    assert nodes["0"] != nodes["1"]
    np.testing.assert_allclose(found["trial"], alone.curves, atol=1e-4)
    assert trial.is_finished
    assert [epoch["train_loss"] for epoch in read_history(trial.folder)] == [losses[0] for losses in found["trial"]]
    assert_all_is_free()


def test_a_trial_without_room_is_refused_in_one_line():
    """Two nodes of one core each."""
    nodes = 2 * [{"Alive": True, "Resources": {"CPU": 1}}]
    with pytest.raises(TrainingError, match=r"^train\.cpus_per_worker: a trial wants 3, but Ray has 2; lower it$"):
        _refuse_too_large({"CPU": 2.0}, _room(nodes, 1, 0.0), 3, 1, 0.0)
    with pytest.raises(TrainingError, match=r"^train\.workers_per_trial: .* 1 of 2 CPUs .* has room for 0; lower it"):
        _refuse_too_large({"CPU": 2.0}, _room(nodes, 2, 0.0), 1, 2, 0.0)


def test_workers_that_die_again_and_again_are_told_in_one_line(ray_settings):
    from ray.exceptions import ActorDiedError
    from ray.train import WorkerGroupError

    trial = SimpleNamespace(name="t")
    died = WorkerGroupError("", {0: RuntimeError("Connection closed by peer"), 1: ActorDiedError()})
    bug = WorkerGroupError("", {0: RuntimeError("shape"), 1: RuntimeError("shape")})
    for error in (died, bug):
        for losses in range(1, 1 + MAX_LOSSES):
            _raise_unless_lost(trial, error, losses)
    with pytest.raises(TrainingError, match=r"^t: a worker died 4 times without finishing an epoch \(.*continues.*$"):
        _raise_unless_lost(trial, died, 1 + MAX_LOSSES)
    with pytest.raises(WorkerGroupError):
        _raise_unless_lost(trial, bug, 1 + MAX_LOSSES)
    with pytest.raises(StoppedError):
        _raise_unless_lost(trial, WorkerGroupError("", {0: RuntimeError("closed"), 1: StoppedError("saved")}), 1)


@pytest.mark.slow
def test_an_error_of_a_worker_is_the_trials_one_line_and_frees_all(cluster, dataset_dir, tmp_path):
    trial = new_trial(dataset_dir, tmp_path, learning_rate=1e6)
    _, [(failed, reason)] = train([trial], workers=2)
    assert failed == trial
    assert reason.startswith("trial: the loss became nan at step ")
    assert len(reason.splitlines()) == 1
    assert_all_is_free()


@pytest.mark.slow
def test_asha_stops_the_worse_trials_and_the_next_one_has_their_workers(cluster, dataset_dir, tmp_path):
    """Each trial wants all that there is; the best comes first."""
    trials = [
        new_trial(dataset_dir, tmp_path, f"rate{rate}", epochs=8, learning_rate=rate) for rate in (2e-2, 1e-5, 1e-6)
    ]
    found, failed = train(trials, workers=2, asha=Asha("val_miou", grace_period=2, max_t=8, reduction_factor=2))
    assert failed == []
    assert [len(curves) for curves in found.values()] == [8, 2, 2]
    assert_all_is_free()


@pytest.mark.slow
def test_told_to_stop_all_workers_save_themselves_and_the_next_run_continues(cluster, dataset_dir, tmp_path):
    trial = new_trial(dataset_dir, tmp_path, epochs=1000)
    stop = tmp_path / STOP
    with pytest.raises(StoppedError, match="saved"):
        train(
            [trial], workers=2, on_record=lambda record: record["epoch"] == 3 and stop.touch(), is_stopping=stop.exists
        )
    assert_all_is_free()
    stop.unlink()
    done = len(read_history(trial.folder))
    assert 3 <= done < 1000
    (trial.folder / "notes").unlink()
    found, failed = train([new_trial(dataset_dir, tmp_path, epochs=1000, until=done + 2)], workers=2)
    assert (failed, len(found["trial"])) == ([], done + 2)
    assert epochs_after_restored(trial) == [done, done + 1, done + 2]


@pytest.mark.slow
def test_the_command_line_joins_the_cluster(cluster, dataset_dir, tmp_path):
    (tmp_path / "data/label").symlink_to(dataset_dir)
    settings = {"models": ["downup"], "losses": ["dice"], "epochs": 2}
    segline = "import sys; from segline.cli import main; sys.exit(main())"
    for count, code in ((2, 0), (3, 6)):
        params = json.dumps({"name": "pair", "train": settings | {"workers_per_trial": count}})
        command = [sys.executable, "-c", segline, "train", "--params", params]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
        assert done.returncode == code, done.stderr
    assert done.stderr.strip() == "segline train: train.cpus_per_worker: a trial wants 3, but Ray has 2; lower it"
    assert len((tmp_path / "data/train/downup-dice/history.csv").read_text().splitlines()) == 3
    assert_all_is_free()


@pytest.mark.slow
def test_a_node_lost_amid_an_epoch_costs_no_more_than_what_was_not_saved(cluster, dataset_dir, tmp_path, alone):
    """The last test: it leaves another cluster behind."""
    trial = new_trial(dataset_dir, tmp_path)

    lost = threading.Event()

    def lose_a_node():
        cluster.remove_node(cluster.second, allow_graceful=False)
        lost.set()

    def watch(record):
        if record["epoch"] == 5:
            threading.Timer(0.2, lose_a_node).start()

    def replace_it():
        if lost.is_set():
            lost.clear()
            cluster.second = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        return False

    found, failed = train([trial], workers=2, on_record=watch, is_stopping=replace_it)
    assert failed == []
    np.testing.assert_allclose(found["trial"], alone.curves, atol=1e-4)
    assert len({node for _, node, _, _ in notes(trial)}) == 3
    epochs = epochs_after_restored(trial)
    assert epochs == sorted(epochs), "the first worker notes an epoch when it is saved"
    assert len(epochs) == trial.until + 1, "one was the last to be restored"
    assert_all_is_free()

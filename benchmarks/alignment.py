"""What aligned enlargement of coarse features changes, on street scenes: several seeds, both sides in one run.

    python benchmarks/alignment.py [--folder FOLDER] [--model drn_a_18] [--epochs 8] [--seeds 1 2 3] [--dataset DIR]

The architecture is trained from random weights with ``align_corners`` and without it: same data, same seeds, same
steps, fp32, cross-entropy. The scores are those of ablation.py on the test split, by the weights that were best on
validation. A finished pair is a line of ``benchmarks/results/alignment.jsonl``, and the same command continues from
there; it then prints the mean over the seeds with its 95 % interval by Student's t, and that of the difference of the
same seed. --dataset takes shards that `segline label` wrote instead of drawing scenes.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from ablation import SCENES, SCORES, interval, load, score
from machine import stamp
from street_shards import make_shards

from segline.artifacts.candidates import WEIGHTS
from segline.artifacts.dataset import read_dataset_info
from segline.config.sections import Train
from segline.data.reading import open_split
from segline.losses import LOSSES, WeightedSum
from segline.losses.task import Task
from segline.models import MODELS
from segline.progress import log
from segline.training.determinism import set_deterministic
from segline.training.engine import Run, fit

RESULTS = Path(__file__).parent / "results" / "alignment.jsonl"
ARCHITECTURES = ("deeplab_v2", "deeplab_v3", "deeplab_v3plus", "drn_a_18", "spp")
SIDES = ("aligned", "unaligned")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keeps the scenes (default: a new temporary one)")
    parser.add_argument("--dataset", type=Path, help="shards to use (default: scenes are drawn)")
    parser.add_argument("--model", default="drn_a_18", choices=ARCHITECTURES)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="segline-alignment-"))
    dataset_dir = arguments.dataset or make_shards(folder, **SCENES, distances=())
    identity = {
        "model": arguments.model,
        "dataset": "streets" if arguments.dataset is None else arguments.dataset.resolve().parent.name,
        "epochs": arguments.epochs,
        "batch": arguments.batch,
    }
    torch.set_num_threads(1)
    for seed in arguments.seeds:
        if not any(pair["seed"] == seed for pair in finished(identity)):
            scores = {side: train(arguments, dataset_dir, seed, align_corners=side == "aligned") for side in SIDES}
            append(identity | {"seed": seed} | scores | {"stamp": stamp()})
            log(f"alignment: seed {seed}: " + ", ".join(f"{side} {scores[side]['mIoU']:.3f}" for side in SIDES))
    show(identity)


def train(arguments: argparse.Namespace, dataset_dir: Path, seed: int, *, align_corners: bool) -> dict[str, float]:
    """Return the scores of a training on the test split."""
    set_deterministic(seed)
    info = read_dataset_info(dataset_dir)
    task = Task(names=tuple(info.names), background=info.background, prepared=None)
    run = Run(
        model=MODELS[arguments.model](len(task.names), align_corners=align_corners),
        loss=WeightedSum([(1.0, LOSSES["cross_entropy"](task))]),
        train=open_split(dataset_dir, "train"),
        val=open_split(dataset_dir, "val_crops"),
        classes=len(task.names),
        settings=Train(epochs=arguments.epochs, batch_size=arguments.batch, precision="fp32"),
        seed=seed,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )
    with tempfile.TemporaryDirectory() as work:
        for _ in fit(run, Path(work)):
            pass
        run.model.load_state_dict(load(Path(work) / WEIGHTS))
    return score(run, dataset_dir)


def finished(identity: dict[str, object]) -> list[dict[str, object]]:
    """Return the pairs of this setting that are in the file of results."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.is_file() else []
    pairs = [json.loads(line) for line in lines]
    return [pair for pair in pairs if identity.items() <= pair.items()]


def append(pair: dict[str, object]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(pair) + "\n")


def show(identity: dict[str, object]) -> None:
    pairs = finished(identity)
    print(f"{identity}, seeds {sorted(pair['seed'] for pair in pairs)}")
    for name in SCORES:
        values = {side: [pair[side][name] for pair in pairs] for side in SIDES}
        gains = [aligned - other for aligned, other in zip(values["aligned"], values["unaligned"], strict=True)]
        sides = ", ".join(f"{side} {interval(values[side])}" for side in SIDES)
        print(f"{name}: {sides}, difference {interval(gains, signed=True)}")
    print(*sorted({str(pair["stamp"]) for pair in pairs}), sep="\n")


if __name__ == "__main__":
    main()

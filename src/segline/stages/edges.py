"""Edges: the network that tells edges from label maps, which the loss semeda compares predictions by.

Seed S4, algorithm 1, first half. It sees no image, so it is trained once for all candidates; without semeda in the
grid there is nothing to do.
"""

from pathlib import Path

from segline.artifacts.dataset import read_dataset_info
from segline.config.params import Params, need_edges
from segline.data.edges import NETWORK
from segline.data.shards import open_split
from segline.files.atomic import write_json, writing
from segline.progress import log, progress_bar


def run(params: Params, *, dataset_dir: Path, out: Path) -> None:
    """Write ``out/network/`` with the weights, and ``out/edges.json``: how well it tells held-out edges."""
    wanted = need_edges(params.train.losses)
    with writing(out) as work:
        # DVC warns of an empty folder.
        write_json((work / NETWORK).with_name("network.json"), {"trained": wanted})
        if wanted:
            _train(params, dataset_dir, work)
        else:
            write_json(work / "edges.json", {"trained": False})
            log("edges: no loss of train.losses is semeda; nothing to train")


def _train(params: Params, dataset_dir: Path, work: Path) -> None:
    from segline.training.edges import train_edges  # torch, which takes seconds, only where it is needed

    train, val = (open_split(dataset_dir, name) for name in ("train", "val"))
    classes = len(read_dataset_info(dataset_dir).classes)
    with progress_bar("training the edge network", params.edges.steps) as advance:
        found = train_edges(
            train,
            val,
            classes,
            params.edges,
            seed=params.seed,
            threads=params.train.cpus_per_worker,
            file=work / NETWORK,
            progress=advance,
        )
    write_json(work / "edges.json", {"trained": True, **found})
    told = f"edges: accuracy {found['accuracy']:.4f} on {len(val)} held-out label maps after {found['steps']} steps"
    log(f"{told} (no edges at all: {found['base_accuracy']:.4f}; F1 of the edges: {found['f1']:.4f})")
    if found["accuracy"] < params.edges.min_accuracy:
        log(f"edges: warning: below edges.min_accuracy, {params.edges.min_accuracy:g}; raise edges.steps")

"""The edge network of SEMEDA, trained on the truth alone (Chen, Dapogny and Cord, sections 3.3 and 3.4)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file

from segline.classes import IGNORED
from segline.config.params import Edges
from segline.data.edges import edge_map
from segline.data.shards import Split
from segline.files.atomic import write_file
from segline.losses.edge_network import EdgeNetwork
from segline.losses.masking import mean_over_valid, one_hot
from segline.training.determinism import set_deterministic

STEPS_BETWEEN_LOOKS = 50


def train_edges(
    train: Split,
    val: Split,
    classes: int,
    settings: Edges,
    *,
    seed: int,
    threads: int = 1,
    file: Path,
    progress: Callable[[int], None],
) -> dict[str, float]:
    """Train until the held-out accuracy is reached or the steps are over, and write the weights.

    The number of threads is a part of what makes the bits.

    Returns:
        ``steps``; of the held-out label maps' pixels ``accuracy``, and ``base_accuracy`` of calling none an edge;
        of the edges ``precision``, ``recall`` and ``f1``.
    """
    torch.set_num_threads(threads)
    set_deterministic(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = EdgeNetwork(classes).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    order, step = np.random.default_rng(seed), 0
    found: dict[str, float] = {"accuracy": 0.0}
    while step < settings.steps and found["accuracy"] < settings.min_accuracy:
        for _ in range(min(STEPS_BETWEEN_LOOKS, settings.steps - step)):
            chosen = order.choice(len(train), min(settings.batch_size, len(train)), replace=False)
            _learn(network, optimiser, train.take(chosen)[1], device)
            step += 1
            progress(1)
        found = {"steps": step, **_scores(network, val, settings.batch_size, device)}
    weights = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    write_file(file, lambda path: save_file(weights, path))
    return found


def _learn(
    network: EdgeNetwork, optimiser: torch.optim.Optimizer, labels: NDArray[np.uint8], device: torch.device
) -> None:
    """One step on the cross-entropy of the edges (equation 7), over the pixels that count."""
    target = torch.from_numpy(labels).to(device)
    edges = torch.from_numpy(edge_map(labels)).to(device)
    wrong = F.cross_entropy(network(one_hot(target, network.first.in_channels).float()), edges.long(), reduction="none")
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(mean_over_valid(wrong, target))
    optimiser.step()


@torch.inference_mode()
def _scores(network: EdgeNetwork, split: Split, batch_size: int, device: torch.device) -> dict[str, float]:
    """How well the network tells the edges of a split's label maps."""
    counts = np.zeros((2, 2), np.int64)  # truth x told, no edge before edge
    for _, labels in split.batches(batch_size):
        target = torch.from_numpy(labels).to(device)
        told = network(one_hot(target, network.first.in_channels).float()).argmax(1)
        pairs = 2 * edge_map(labels)[labels != IGNORED] + told.cpu().numpy()[labels != IGNORED]
        counts += np.bincount(pairs, minlength=4).reshape(2, 2)
    (_, false), (missed, hits) = counts
    total = max(1, counts.sum())
    return {
        "accuracy": float(np.trace(counts) / total),
        "base_accuracy": float(counts[0].sum() / total),
        "precision": float(hits / max(1, hits + false)),
        "recall": float(hits / max(1, hits + missed)),
        "f1": float(2 * hits / max(1, 2 * hits + false + missed)),
    }

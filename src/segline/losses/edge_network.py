"""The network that finds the borders of classes in a mask, and its training (Seed S4, sections 3.3 and 3.4).

Three convolutions with 16, 32 and 2 channels. S4 gives no kernel size: 3 x 3 here, with zero padding, so that an edge
network sees 7 x 7 pixels. It sees no image and is trained on the label maps alone.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segline.errors import TrainingError
from segline.losses.masking import mean_over_valid, one_hot, valid
from segline.losses.task import LabelBatches

STEPS_BETWEEN_EVALUATIONS = 50
ALL, FIRST, LAST = slice(None), slice(None, -1), slice(1, None)
# The pixels and their neighbors to the right, below, and below to either side; the relation holds both ways.
NEIGHBORS = (
    ((..., ALL, FIRST), (..., ALL, LAST)),
    ((..., FIRST, ALL), (..., LAST, ALL)),
    ((..., FIRST, FIRST), (..., LAST, LAST)),
    ((..., FIRST, LAST), (..., LAST, FIRST)),
)


class EdgeNetwork(nn.Module):
    """A network from a mask, one plane per class, to whether a pixel lies at a border between classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(classes, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.third = nn.Conv2d(32, 2, 3, padding=1)

    def forward(self, masks: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 2 h w"]:
        """Return the logits of "no border" and "border", for its own training."""
        logits: Tensor = self.third(self._hidden(masks)[1])
        return logits

    def embeddings(self, masks: Float[Tensor, "b k h w"]) -> list[Float[Tensor, "b c h w"]]:
        """Return the outputs of the three layers: 16 and 32 channels after ReLU, 2 after the softmax."""
        first, second = self._hidden(masks)
        return [first, second, self.third(second).softmax(1)]

    def _hidden(self, masks: Float[Tensor, "b k h w"]) -> tuple[Tensor, Tensor]:
        first = F.relu(self.first(masks.to(self.first.weight.dtype)))
        return first, F.relu(self.second(first))


def edge_map(labels: Integer[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    """Return where one of a pixel's 8 neighbors belongs to another class than the pixel (S4, section 3.3).

    The paper does not say what the neighbors outside the image are: here they equal the pixel, so that the border of an
    image is no edge. Ignored pixels are no edges and make none, as their class is not known.
    """
    edges = torch.zeros_like(labels, dtype=torch.bool)
    known = valid(labels)
    for here, there in NEIGHBORS:
        differ = (labels[here] != labels[there]) & known[here] & known[there]
        edges[here] |= differ
        edges[there] |= differ
    return edges


def train_edge_network(
    batches: LabelBatches, *, steps: int, batch_size: int, learning_rate: float, min_accuracy: float
) -> tuple[EdgeNetwork, dict[str, float]]:
    """Train an edge network until its accuracy on the validation split is reached or the steps are over.

    Returns:
        The network, and its scores: ``steps``; ``accuracy`` over the pixels of the validation split, next to
        ``base_accuracy``, that of calling no pixel an edge; ``precision``, ``recall`` and ``f1`` of the edges.
    """
    network = EdgeNetwork(batches.classes).to(batches.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    scores: dict[str, float] = {}
    for step, target in enumerate(batches.train(batch_size, steps), 1):
        # Equation 7, over the pixels that count.
        losses = F.cross_entropy(_logits(network, target), edge_map(target).long(), reduction="none")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(mean_over_valid(losses, target))
        optimizer.step()
        if step % STEPS_BETWEEN_EVALUATIONS == 0 or step == steps:
            scores = {"steps": float(step), **_evaluate(network, batches, batch_size)}
            if scores["accuracy"] >= min_accuracy:
                break
    return network, scores


def read_edge_network(path: Path, classes: int) -> EdgeNetwork:
    """Read the network that the preparation step of the loss ``semeda`` wrote.

    Raises:
        TrainingError: There is none, or it was made for another number of classes.
    """
    network = EdgeNetwork(classes)
    advice = f"delete {path.parent} and run `segline train` again"
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: no edge network can be read ({error}); {advice}") from None
    expected = {name: value.shape for name, value in network.state_dict().items()}
    if {name: value.shape for name, value in weights.items()} != expected:
        raise TrainingError(f"{path}: not an edge network for {classes} classes; {advice}")
    network.load_state_dict(weights)
    return network


def _logits(network: EdgeNetwork, target: Integer[Tensor, "b h w"]) -> Float[Tensor, "b 2 h w"]:
    logits: Tensor = network(one_hot(target, network.first.in_channels).float())
    return logits


@torch.inference_mode()
def _evaluate(network: EdgeNetwork, batches: LabelBatches, batch_size: int) -> dict[str, float]:
    """Return how well the network finds the edges of the validation split."""
    hits = missed = false = total = 0
    for target in batches.val(batch_size):
        predicted, truth, known = _logits(network, target).argmax(1) == 1, edge_map(target), valid(target)
        hits += int((predicted & truth).sum())
        missed += int((~predicted & truth).sum())
        false += int((predicted & ~truth & known).sum())
        total += int(known.sum())
    return {
        "accuracy": (total - missed - false) / max(1, total),
        "base_accuracy": (total - hits - missed) / max(1, total),
        "precision": hits / max(1, hits + false),
        "recall": hits / max(1, hits + missed),
        "f1": 2 * hits / max(1, 2 * hits + false + missed),
    }

"""SEMEDA (Seed S4, Chen, Dapogny and Cord, sections 3.2 to 3.4, equations 4 to 6).

S4 writes sums over the image (equations 2 and 5); here both terms are divided by the number of pixels that count, and
the distance in a layer by its channels too, as the perceptual loss that S4 follows does (Johnson et al. 2016). As sums
over the channels the layers outweigh the cross-entropy some fifty times at the seed's lambdas, and what cross-entropy
learns easily is not learnt.
"""

from pathlib import Path
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Integer
from safetensors.torch import save_file
from torch import Tensor, nn

from segline.artifacts.preparation import Preparation
from segline.config.fields import Range
from segline.errors import TrainingError
from segline.losses.edge_network import read_edge_network, train_edge_network
from segline.losses.masking import count_valid, gather_true_class, log_probabilities, one_hot, valid
from segline.losses.task import LabelBatches, Task

EDGE_NETWORK = "edge_network.safetensors"
"""The file that the preparation step writes."""


class Semeda(nn.Module):
    r"""Cross-entropy plus the L1 distance between the layers of a frozen edge network on prediction and truth.

    .. math:: \frac1N \left( - \sum_i \log p_{i y_i}
              + \sum_{l=1}^3 \frac{\lambda_l}{C_l} \|\psi_l(p) - \psi_l(g)\|_1 \right)

    The layers have 16, 32 and 2 channels C. The edge network is :class:`~segline.losses.edge_network.EdgeNetwork`,
    which :meth:`prepare` trains on the masks of the training split. A layer whose lambda is zero costs nothing. Ignored
    pixels are zero in p and g, so they add nothing; if all are ignored the loss is zero.
    """

    needs_neighbors: ClassVar[bool] = True

    def __init__(
        self,
        task: Task,
        *,
        lambda_1: Annotated[float, Range(0), "weight of the first layer; S4 tunes 0 to 4, under its own scaling"] = 2.0,
        lambda_2: Annotated[float, Range(0), "weight of the second layer"] = 4.0,
        lambda_3: Annotated[float, Range(0), "weight of the edge map itself"] = 0.0,
        # The options of the preparation step, which trains the edge network.
        edge_steps: Annotated[int, Range(1, 1_000_000), "training steps of the edge network at most"] = 1000,
        edge_batch_size: Annotated[int, Range(1, 4096), "label maps in a training step of the edge network"] = 8,
        edge_learning_rate: Annotated[float, Range(1e-8, 10), "learning rate of Adam for the edge network"] = 1e-2,
        edge_min_accuracy: Annotated[
            float, Range(0, 1), "accuracy on the validation split at which the training of the edge network ends"
        ] = 0.999,
    ) -> None:
        super().__init__()
        if task.prepared is None:
            raise TrainingError("semeda needs its edge network, which `segline train` trains before the first trial")
        self.network = read_edge_network(task.prepared / EDGE_NETWORK, len(task.names)).requires_grad_(False)
        self.lambdas = (lambda_1, lambda_2, lambda_3)

    @staticmethod
    def prepare(
        batches: LabelBatches,
        folder: Path,
        *,
        edge_steps: int,
        edge_batch_size: int,
        edge_learning_rate: float,
        edge_min_accuracy: float,
    ) -> Preparation:
        """Train the edge network on label maps and write its weights (S4, algorithm 1, first half)."""
        network, scores = train_edge_network(
            batches,
            steps=edge_steps,
            batch_size=edge_batch_size,
            learning_rate=edge_learning_rate,
            min_accuracy=edge_min_accuracy,
        )
        weights = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
        save_file(weights, folder / EDGE_NETWORK)
        message = (
            f"the edge network has an accuracy of {scores['accuracy']:.4f} on the validation split after "
            f"{scores['steps']:.0f} steps (calling no pixel an edge: {scores['base_accuracy']:.4f}; "
            f"F1 of the edges: {scores['f1']:.4f})"
        )
        if scores["accuracy"] < edge_min_accuracy:
            message += f"; warning: below edge_min_accuracy, {edge_min_accuracy:g}; raise edge_steps"
        return Preparation(files=(EDGE_NETWORK,), scores=scores, message=message)

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """Return the loss of a batch."""
        logarithms = log_probabilities(logits)
        predicted = logarithms.exp() * valid(target).unsqueeze(1)
        truth = one_hot(target, logits.shape[1]).to(predicted.dtype)
        edges = self._distance(predicted, truth)
        return (edges - gather_true_class(logarithms, target).sum()) / count_valid(target)

    def _distance(
        self, predicted: Float[Tensor, "b k h w"], truth: Float[Tensor, "b k h w"]
    ) -> Float[Tensor, ""] | float:
        """Return the weighted L1 distances of the layers, equation 4."""
        with torch.no_grad():
            expected = self.network.embeddings(truth)
        layers = zip(self.lambdas, self.network.embeddings(predicted), expected, strict=True)
        return sum(weight * (ours - theirs).abs().mean(1).sum() for weight, ours, theirs in layers if weight)

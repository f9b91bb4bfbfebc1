"""SEMEDA (Seed S4, Chen, Dapogny and Cord, sections 3.2 to 3.4, equations 4 to 6).

S4 writes sums over the image (equations 2 and 5); here both terms are divided by the number of pixels that count, and
the distance in a layer by its channels too, as the perceptual loss that S4 follows does (Johnson et al. 2016). As sums
over the channels the layers outweigh the cross-entropy some fifty times at the seed's lambdas, and what cross-entropy
learns easily is not learnt.
"""

from typing import Annotated

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segline.config.fields import Range
from segline.errors import TrainingError
from segline.losses.edge_network import read
from segline.losses.masking import count_valid, gather_true_class, log_probabilities, one_hot, valid
from segline.losses.task import Task


class Semeda(nn.Module):
    r"""Cross-entropy plus the L1 distance between what a frozen edge network makes of prediction and truth.

    .. math:: \frac1N \left( - \sum_i \log p_{i y_i}
              + \sum_{l=1}^3 \frac{\lambda_l}{C_l} \|\psi_l(p) - \psi_l(g)\|_1 \right)

    The layers have 16, 32 and 2 channels C. The edge network is :class:`~segline.losses.edge_network.EdgeNetwork`,
    trained by the stage edges on the masks of the training split. A layer whose lambda is zero costs nothing. Ignored
    pixels are zero in p and g, so they add nothing; if all are ignored the loss is zero.
    """

    def __init__(
        self,
        task: Task,
        *,
        lambda_1: Annotated[float, Range(0), "weight of the first layer; S4 tunes 0 to 4, under its own scaling"] = 2.0,
        lambda_2: Annotated[float, Range(0), "weight of the second layer"] = 4.0,
        lambda_3: Annotated[float, Range(0), "weight of the edge map itself"] = 0.0,
        edge_steps: Annotated[int, Range(1, 1_000_000), "the most training steps of the edge network"] = 1000,
        edge_batch_size: Annotated[int, Range(1, 4096), "the number of label maps in a step of the edge network"] = 8,
        edge_learning_rate: Annotated[float, Range(1e-8, 10), "the learning rate of Adam for the edge network"] = 1e-2,
        edge_min_accuracy: Annotated[
            float, Range(0, 1), "the accuracy on held-out label maps at which the training of the edge network ends"
        ] = 0.999,
    ) -> None:
        super().__init__()
        if task.edge_network is None:
            raise TrainingError("semeda needs an edge network; run `segline edges` first")
        self.network = read(task.edge_network, len(task.names)).requires_grad_(False)
        self.lambdas = (lambda_1, lambda_2, lambda_3)

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """The loss of a batch."""
        logarithms = log_probabilities(logits)
        predicted = logarithms.exp() * valid(target).unsqueeze(1)
        truth = one_hot(target, logits.shape[1]).to(predicted.dtype)
        edges = self._distance(predicted, truth)
        return (edges - gather_true_class(logarithms, target).sum()) / count_valid(target)

    def _distance(
        self, predicted: Float[Tensor, "b k h w"], truth: Float[Tensor, "b k h w"]
    ) -> Float[Tensor, ""] | float:
        """Equation 4: the layers' L1 distances, each with its weight."""
        with torch.no_grad():
            wanted = self.network.embeddings(truth)
        found = self.network.embeddings(predicted)
        layers = zip(self.lambdas, found, wanted, strict=True)
        return sum(weight * (ours - theirs).abs().mean(1).sum() for weight, ours, theirs in layers if weight)

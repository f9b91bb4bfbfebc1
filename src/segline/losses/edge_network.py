"""The network that finds class borders in a mask (Seed S4, sections 3.3 and 3.4).

Three convolutions with 16, 32 and 2 channels. S4 gives no kernel size: 3 x 3 here, with zero padding, so that an edge
network sees 7 x 7 pixels.
"""

from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segline.errors import TrainingError


class EdgeNetwork(nn.Module):
    """From a mask, one plane per class, to whether a pixel lies at a border between classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(classes, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.third = nn.Conv2d(32, 2, 3, padding=1)

    def forward(self, masks: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 2 h w"]:
        """The logits of "no border" and "border", for its own training."""
        logits: Tensor = self.third(self._hidden(masks)[1])
        return logits

    def embeddings(self, masks: Float[Tensor, "b k h w"]) -> list[Float[Tensor, "b c h w"]]:
        """What the three layers make of a mask: 16 and 32 channels after ReLU, 2 after the softmax."""
        first, second = self._hidden(masks)
        return [first, second, self.third(second).softmax(1)]

    def _hidden(self, masks: Float[Tensor, "b k h w"]) -> tuple[Tensor, Tensor]:
        first = F.relu(self.first(masks.to(self.first.weight.dtype)))
        return first, F.relu(self.second(first))


def read(path: Path, classes: int) -> EdgeNetwork:
    """The network that the stage edges wrote.

    Raises:
        TrainingError: there is none, or it was made for another number of classes.
    """
    network = EdgeNetwork(classes)
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: no edge network can be read ({error}); run `segline edges` again") from None
    expected = {name: value.shape for name, value in network.state_dict().items()}
    if {name: value.shape for name, value in weights.items()} != expected:
        raise TrainingError(f"{path}: not an edge network for {classes} classes; run `segline edges` again")
    network.load_state_dict(weights)
    return network

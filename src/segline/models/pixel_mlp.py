"""A perceptron per pixel on the features of a frozen encoder (Hariharan et al. 2015, hypercolumns).

Seed S2 (II.A.2) has the same classifier on the features of a generator, as an ensemble of ten whose majority decides.
Here the features are those of a timm model with ImageNet weights, which stay as they are; the layers of the perceptron
are 1x1 convolutions with batch normalisation and ReLU at a low stride, and the logits are upsampled bilinearly. The
features are standardised by their running statistics first, as those of different stages differ in scale.

Each perceptron of an ensemble has initial weights and a loss of its own: in training the logits of all are stacked
along the batch, and the sum of their losses is minimised. In evaluation they vote, pixel by pixel.

As the encoder does not change, train computes the features of sampled pixels once (:meth:`PixelMLP.prepare`), and
trains the perceptrons of all trials on them.
"""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segline.artifacts.preparation import Preparation
from segline.config.fields import Pretrained, Range, Unit
from segline.models.blocks import BatchNorm, Conv1x1BNReLU
from segline.models.feature_cache import ImageBatches, write_features
from segline.models.hypercolumns import Hypercolumns


class PixelMLP(nn.Module):
    """A frozen encoder with perceptrons per pixel, which maps images (b, 3, h, w) of any size to logits.

    In training the logits are (heads * b, classes, h, w), those of the first perceptron first.

    Raises:
        TrainingError: There is no such encoder, its features do not fit, or its weights are not available.
    """

    def __init__(
        self,
        classes: int,
        *,
        encoder: Annotated[str, "the timm model that computes the features"] = "tf_efficientnet_lite0",
        pretrained: Pretrained = False,
        finest_stride: Annotated[Literal[1, 2, 4, 8, 16, 32], "lowest stride whose features are joined"] = 2,
        coarsest_stride: Annotated[Literal[1, 2, 4, 8, 16, 32], "highest stride whose features are joined"] = 32,
        stride: Annotated[Literal[1, 2, 4, 8, 16, 32], "stride at which the features are joined and classified"] = 4,
        layers: Annotated[int, Range(1, 3), "layers of a perceptron, the last of which gives the logits"] = 2,
        hidden: Annotated[int, Range(1, 4096), "channels of a layer before the last one"] = 128,
        heads: Annotated[int, Range(1, 100), "perceptrons, each with initial weights and a loss of its own"] = 1,
        vote: Annotated[
            Literal["majority", "mean"],
            "what several heads predict: the class that most of them choose, as S2 does, or their mean probabilities",
        ] = "majority",
        # What is kept of the features, on which the trials then train.
        max_gb: Annotated[
            float,
            Range(0, 10_000),
            Unit("GB"),
            "largest size of the kept features; 0: none, each step computes its own",
        ] = 1.0,
        views: Annotated[int, Range(1, 1000), "augmented views of each training image whose features are kept"] = 2,
        balance: Annotated[
            Literal["none", "root_inverse"],
            "which labelled pixels are kept: each as likely, or by the inverse root of its class's pixels",
        ] = "none",
    ) -> None:
        super().__init__()
        self.features = Hypercolumns(
            encoder, pretrained=pretrained, finest=finest_stride, coarsest=coarsest_stride, stride=stride
        )
        self.head = PixelHead(self.features.channels, classes, layers=layers, hidden=hidden, heads=heads, vote=vote)

    @staticmethod
    def prepare(
        batches: ImageBatches,
        folder: Path,
        *,
        encoder: str,
        pretrained: bool | str,
        finest_stride: int,
        coarsest_stride: int,
        stride: int,
        max_gb: float,
        views: int,
        balance: str,
    ) -> Preparation:
        """Compute the features of sampled pixels, on which :attr:`head` is trained; see ``write_features``."""
        features = Hypercolumns(
            encoder, pretrained=pretrained, finest=finest_stride, coarsest=coarsest_stride, stride=stride
        )
        return write_features(features, batches, folder, views=views, max_gb=max_gb, balance=balance)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "n k h w"]:
        """Return logits of the input's size."""
        height, width = images.shape[-2:]
        logits = self.head.stacked(self.features(self.features.pad(images)))
        upsampled = F.interpolate(logits, scale_factor=self.features.stride, mode="bilinear")
        return self.head.vote(upsampled[..., :height, :width])


class PixelHead(nn.Module):
    """What is trained: perceptrons on features (b, c, h, w) of any size, and their vote."""

    def __init__(
        self, channels: int, classes: int, *, layers: int, hidden: int, heads: int, vote: Literal["majority", "mean"]
    ) -> None:
        super().__init__()
        self.standardize = BatchNorm(channels, affine=False)
        self.perceptrons = nn.ModuleList(_perceptron(channels, classes, layers, hidden) for _ in range(heads))
        self.by_majority = vote == "majority"

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "n k h w"]:
        """Return the logits of all perceptrons in training, stacked along the batch, and else those of their vote."""
        return self.vote(self.stacked(features))

    def stacked(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "n k h w"]:
        """Return the logits of the first perceptron for the batch, then those of the second, and so on."""
        standard = self.standardize(features)
        return torch.cat([perceptron(standard) for perceptron in self.perceptrons])

    def vote(self, logits: Float[Tensor, "n k h w"]) -> Float[Tensor, "m k h w"]:
        """Return stacked logits as they are in training, and else the logarithm of what the perceptrons agree on.

        The mean of their probabilities decides between classes with as many votes, and is below one vote.
        """
        heads = len(self.perceptrons)
        if self.training or heads == 1:
            return logits
        probabilities = logits.float().reshape(heads, -1, *logits.shape[1:]).softmax(2)
        agreed = probabilities.mean(0)
        if self.by_majority:
            votes = F.one_hot(probabilities.argmax(2), probabilities.shape[2]).movedim(-1, 2).sum(0)
            agreed = (votes + agreed) / (heads + 1)
        return agreed.clamp_min(torch.finfo(agreed.dtype).tiny).log().to(logits.dtype)


def _perceptron(channels: int, classes: int, layers: int, hidden: int) -> nn.Sequential:
    widths = [channels, *[hidden] * (layers - 1)]
    hidden_layers = [Conv1x1BNReLU(*pair) for pair in pairwise(widths)]
    return nn.Sequential(*hidden_layers, nn.Conv2d(widths[-1], classes, kernel_size=1))

"""DownUp, down- and upsampling without skips (Seed S0 4.4.1).

Two 3x3 convolutions with ReLU, then three times a 2x2 max-pooling and three convolutions with ReLU, to 212 channels at
an eighth of the resolution. The inverse has transposed convolutions and nearest-neighbour upsampling in their stead;
the last gives the logits. S0 states 212 channels only: here every pooling doubles the channels, rounded down, from 26
over 53 and 106, and the inverse takes the same way back. Weights start by He's rule, since nothing is normalised.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import Range
from segline.models.blocks import he_normal, pad_to_stride

STRIDE = 8


class DownUp(nn.Module):
    """DownUp: images (b, 3, h, w) to logits (b, classes, h, w), any size."""

    def __init__(
        self,
        classes: int,
        *,
        width: Annotated[int, Range(8, 4096), "channels at the bottom, halved by each upsampling"] = 212,
    ) -> None:
        super().__init__()
        eighth, quarter, half = width // 8, width // 4, width // 2
        self.down = nn.Sequential(
            *convolutions(3, eighth, eighth),
            nn.MaxPool2d(2),
            *convolutions(eighth, quarter, quarter, quarter),
            nn.MaxPool2d(2),
            *convolutions(quarter, half, half, half),
            nn.MaxPool2d(2),
            *convolutions(half, width, width, width),
        )
        self.up = nn.Sequential(
            *transposed(width, width, width, half),
            nn.Upsample(scale_factor=2),
            *transposed(half, half, half, quarter),
            nn.Upsample(scale_factor=2),
            *transposed(quarter, quarter, quarter, eighth),
            nn.Upsample(scale_factor=2),
            *transposed(eighth, eighth),
            nn.ConvTranspose2d(eighth, classes, kernel_size=3, padding=1),
        )
        self.apply(he_normal)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        return self.up(self.down(images))


def convolutions(*channels: int) -> Iterator[nn.Module]:
    """3x3 convolutions with these channels, each with ReLU."""
    for into, out in pairwise(channels):
        yield nn.Conv2d(into, out, kernel_size=3, padding=1)
        yield nn.ReLU(inplace=True)


def transposed(*channels: int) -> Iterator[nn.Module]:
    """3x3 transposed convolutions with these channels, each with ReLU."""
    for into, out in pairwise(channels):
        yield nn.ConvTranspose2d(into, out, kernel_size=3, padding=1)
        yield nn.ReLU(inplace=True)

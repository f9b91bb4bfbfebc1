"""DownUp, downsampling and upsampling without skips (Seed S0 4.4.1).

Two 3x3 convolutions with ReLU are followed three times by a 2x2 max-pooling and three convolutions with ReLU, up to 212
channels at an eighth of the resolution. The inverse path has transposed convolutions and nearest-neighbour upsampling
instead; its last layer gives the logits. S0 states only the 212 channels: here every pooling doubles the channels,
rounded down, from 26 over 53 and 106, and the inverse path mirrors them. The weights are initialised by He's rule,
since nothing is normalised.
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
    """DownUp, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w)."""

    def __init__(
        self,
        classes: int,
        *,
        width: Annotated[int, Range(8, 4096), "channels at the lowest resolution, halved by each upsampling"] = 212,
    ) -> None:
        super().__init__()
        eighth, quarter, half = width // 8, width // 4, width // 2
        self.down = nn.Sequential(
            *conv_relu_layers(3, eighth, eighth),
            nn.MaxPool2d(2),
            *conv_relu_layers(eighth, quarter, quarter, quarter),
            nn.MaxPool2d(2),
            *conv_relu_layers(quarter, half, half, half),
            nn.MaxPool2d(2),
            *conv_relu_layers(half, width, width, width),
        )
        self.up = nn.Sequential(
            *conv_transpose_relu_layers(width, width, width, half),
            nn.Upsample(scale_factor=2),
            *conv_transpose_relu_layers(half, half, half, quarter),
            nn.Upsample(scale_factor=2),
            *conv_transpose_relu_layers(quarter, quarter, quarter, eighth),
            nn.Upsample(scale_factor=2),
            *conv_transpose_relu_layers(eighth, eighth),
            nn.ConvTranspose2d(eighth, classes, kernel_size=3, padding=1),
        )
        self.apply(he_normal)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        return self.up(self.down(images))


def conv_relu_layers(*channels: int) -> Iterator[nn.Module]:
    """Yield 3x3 convolutions with these channels, each followed by ReLU."""
    for channels_in, channels_out in pairwise(channels):
        yield nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1)
        yield nn.ReLU(inplace=True)


def conv_transpose_relu_layers(*channels: int) -> Iterator[nn.Module]:
    """Yield 3x3 transposed convolutions with these channels, each followed by ReLU."""
    for channels_in, channels_out in pairwise(channels):
        yield nn.ConvTranspose2d(channels_in, channels_out, kernel_size=3, padding=1)
        yield nn.ReLU(inplace=True)

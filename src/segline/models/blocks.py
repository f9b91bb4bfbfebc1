"""Blocks that several architectures share."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ConvUnit(nn.Sequential):
    """A padded 3x3 convolution, batch normalisation, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class DoubleConv(nn.Sequential):
    """Two convolution units, the block on both sides of a U-Net."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(ConvUnit(channels_in, channels_out), ConvUnit(channels_out, channels_out))


def on_padded(
    network: Callable[[Tensor], Tensor], images: Float[Tensor, "b c h w"], stride: int
) -> Float[Tensor, "b k h w"]:
    """Run a network of this output stride on images of any size: pad below and right, run, crop back.

    At least two strides a side, so that batch normalisation has several values per channel for one image.
    """
    height, width = images.shape[-2:]
    below, right = (max(2 * stride, -(-side // stride) * stride) - side for side in (height, width))
    padded = F.pad(images, (0, right, 0, below)) if below or right else images
    return network(padded)[..., :height, :width]


def join(deep: Float[Tensor, "b d h w"], skip: Float[Tensor, "b s h w"]) -> Float[Tensor, "b d+s h w"]:
    """Concatenate upsampled features with those of the encoder."""
    return torch.cat([deep, skip], dim=1)

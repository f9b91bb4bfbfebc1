"""What DeepLab v3 and v3+ share: multi-grid and atrous spatial pyramid pooling with image features.

Chen et al. 2017, "Rethinking Atrous Convolution", sections 3.2 and 3.3; rates are given at output stride 16 and
double at 8.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segline.models.blocks import PointUnit

WIDTH = 256
RATES = (6, 12, 18)
GRID = (1, 2, 4)


class AtrousUnit(nn.Sequential):
    """A 3x3 convolution of an atrous rate, batch normalisation, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, rate: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=rate, dilation=rate, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class SeparableUnit(nn.Sequential):
    """A 3x3 convolution of each channel and a 1x1 convolution, with batch normalisation and ReLU after both."""

    def __init__(self, channels_in: int, channels_out: int, rate: int = 1) -> None:
        super().__init__(
            nn.Conv2d(
                channels_in, channels_in, kernel_size=3, padding=rate, dilation=rate, groups=channels_in, bias=False
            ),
            nn.BatchNorm2d(channels_in),
            nn.ReLU(inplace=True),
            PointUnit(channels_in, channels_out),
        )


class Aspp(nn.Module):
    """A 1x1 unit, three atrous units and the pooled image side by side, fused to 256 channels.

    Args:
        channels_in: of the features.
        unit: of the atrous branches, built from channels in, channels out and rate.
        output_stride: of the features, 8 or 16.
        dropout: share of the fused features dropped in training.
    """

    def __init__(
        self, channels_in: int, *, unit: type[AtrousUnit | SeparableUnit], output_stride: int, dropout: float
    ) -> None:
        super().__init__()
        atrous = (unit(channels_in, WIDTH, rate * 16 // output_stride) for rate in RATES)
        self.branches = nn.ModuleList([PointUnit(channels_in, WIDTH), *atrous])
        self.image = PointUnit(channels_in, WIDTH)
        self.fuse = PointUnit((len(self.branches) + 1) * WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Features of the same size."""
        image = self.image(features.mean((2, 3), keepdim=True)).expand(-1, -1, *features.shape[-2:])
        context = torch.cat([*(branch(features) for branch in self.branches), image], dim=1)
        return self.dropout(self.fuse(context))


def apply_multi_grid(stage: nn.Module, rate: int) -> None:
    """Give the 3x3 convolutions of a stage's three blocks the rates (1, 2, 4) times ``rate``."""
    for block, factor in zip(stage.children(), GRID, strict=True):
        convolution = block.get_submodule("conv2")
        assert isinstance(convolution, nn.Conv2d)
        convolution.dilation = convolution.padding = (rate * factor, rate * factor)

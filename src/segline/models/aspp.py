"""Parts shared by DeepLab v3 and v3+: multi-grid, and atrous spatial pyramid pooling (ASPP) with image features.

They follow Chen et al. 2017, "Rethinking Atrous Convolution", sections 3.2 and 3.3. The rates are given for output
stride 16 and double at 8.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segline.models.blocks import Conv1x1BNReLU, runs_on_cpu

WIDTH = 256
RATES = (6, 12, 18)
MULTI_GRID = (1, 2, 4)
MIN_SUBGRID = 2
"""The smallest side of a sub-grid, in px, for which splitting an image pays off."""


class AtrousConvBNReLU(nn.Sequential):
    """A 3x3 atrous convolution, batch normalisation and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, rate: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=rate, dilation=rate, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class AtrousDepthwiseConv(nn.Conv2d):
    """A padded 3x3 depthwise convolution with an atrous rate.

    CPU libraries are up to a hundred times slower with an atrous rate than without one. On a CPU two cases are
    therefore rearranged, with equal results: where the rate reaches the image's side, only the kernel's centre meets
    the image; and in a large image every rate-th position forms an image of its own, on which the kernel is dense.
    """

    def __init__(self, channels: int, rate: int) -> None:
        super().__init__(channels, channels, kernel_size=3, padding=rate, dilation=rate, groups=channels, bias=False)
        self.rate = rate

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return features of the same shape."""
        height, width = features.shape[-2:]
        if not runs_on_cpu(features):
            return super().forward(features)
        if self.rate >= max(height, width):
            return features * self.weight[:, :, 1, 1].unsqueeze(2).to(features.dtype)
        if self.rate > 1 and min(height, width) >= MIN_SUBGRID * self.rate:
            return self._on_subgrids(features)
        return super().forward(features)

    def _on_subgrids(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Convolve every sub-grid of stride ``rate`` in one batch, with channels last and in single precision.

        In bf16 the gradients of small images take three times as long.
        """
        (batch, channels, height, width), rate = features.shape, self.rate
        padded = F.pad(features, (0, -width % rate, 0, -height % rate)).permute(0, 2, 3, 1)
        rows, columns = padded.shape[1] // rate, padded.shape[2] // rate
        grids = padded.reshape(batch, rows, rate, columns, rate, channels).permute(0, 2, 4, 5, 1, 3)
        flat = grids.reshape(-1, channels, rows, columns).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", enabled=False):
            kernel = self.weight
            convolved = F.conv2d(flat.to(kernel.dtype), kernel, padding=1, groups=channels).to(features.dtype)
        back = (
            convolved.permute(0, 2, 3, 1).reshape(batch, rate, rate, rows, columns, channels).permute(0, 3, 1, 4, 2, 5)
        )
        return back.reshape(batch, rows * rate, columns * rate, channels).permute(0, 3, 1, 2)[..., :height, :width]


class SeparableConvBNReLU(nn.Sequential):
    """A 3x3 depthwise convolution and a 1x1 convolution, each followed by batch normalisation and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, rate: int = 1) -> None:
        super().__init__(
            AtrousDepthwiseConv(channels_in, rate),
            nn.BatchNorm2d(channels_in),
            nn.ReLU(inplace=True),
            Conv1x1BNReLU(channels_in, channels_out),
        )


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling.

    A 1x1 convolution, three atrous convolutions and the pooled image run side by side and are fused to 256 channels.

    Args:
        channels_in: The number of channels of the features.
        unit: The class of the atrous branches, built from the input channels, the output channels and the rate.
        output_stride: The stride of the features, 8 or 16.
        dropout: The share of the fused features that is dropped in training.
    """

    def __init__(
        self,
        channels_in: int,
        *,
        unit: type[AtrousConvBNReLU | SeparableConvBNReLU],
        output_stride: int,
        dropout: float,
    ) -> None:
        super().__init__()
        atrous = (unit(channels_in, WIDTH, rate * 16 // output_stride) for rate in RATES)
        self.branches = nn.ModuleList([Conv1x1BNReLU(channels_in, WIDTH), *atrous])
        self.image = Conv1x1BNReLU(channels_in, WIDTH)
        self.fuse = Conv1x1BNReLU((len(self.branches) + 1) * WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Return fused features of the same size."""
        image = self.image(features.mean((2, 3), keepdim=True)).expand(-1, -1, *features.shape[-2:])
        context = torch.cat([*(branch(features) for branch in self.branches), image], dim=1)
        return self.dropout(self.fuse(context))


def apply_multi_grid(stage: nn.Module, rate: int) -> None:
    """Set the rates of the 3x3 convolutions of a stage's three blocks to (1, 2, 4) times ``rate``."""
    for block, factor in zip(stage.children(), MULTI_GRID, strict=True):
        convolution = block.get_submodule("conv2")
        assert isinstance(convolution, nn.Conv2d)
        convolution.dilation = convolution.padding = (rate * factor, rate * factor)

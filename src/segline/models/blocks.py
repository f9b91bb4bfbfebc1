"""Blocks that several architectures share."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ConvBNReLU(nn.Sequential):
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
        super().__init__(ConvBNReLU(channels_in, channels_out), ConvBNReLU(channels_out, channels_out))


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that in training takes its running statistics where a channel has a single value.

    Such are the pooled features of one image, which have no spread to divide by.
    """

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Features of the same shape."""
        if features.shape[0] * features.shape[2] * features.shape[3] > 1:
            return super().forward(features)
        return F.batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class Conv1x1BNReLU(nn.Sequential):
    """A 1x1 convolution, batch normalisation that stands a single value per channel, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel_size=1, bias=False),
            BatchNorm(channels_out),
            nn.ReLU(inplace=True),
        )


def on_plain_cpu(features: Tensor) -> bool:
    """Whether a rearranged convolution pays: on a CPU, and not in an exported graph, which holds the textbook's form.

    Libraries of convolutions for GPUs are as fast for the textbook's form.
    """
    return features.device.type == "cpu" and not torch.compiler.is_exporting()


class PyramidPooling(nn.Module):
    """Features beside their averages over grids of 1, 2, 3 and 6 cells a side (Zhao et al. 2017, section 3.2).

    The averages of each grid pass a 1x1 unit to a quarter of the channels and are upsampled bilinearly.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.units = nn.ModuleDict({str(cells): Conv1x1BNReLU(channels, channels // 4) for cells in (1, 2, 3, 6)})

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2*c h w"]:
        """The features and those of the four grids."""
        pooled = (unit(adaptive_avg_pool(features, int(cells))) for cells, unit in self.units.items())
        size = features.shape[-2:]
        spread = (F.interpolate(means, size=size, mode="bilinear", align_corners=False) for means in pooled)
        return torch.cat([features, *spread], dim=1)


def adaptive_avg_pool(features: Float[Tensor, "b c h w"], cells: int) -> Float[Tensor, "b c {cells} {cells}"]:
    """Averages over a grid of cells, as adaptive average pooling takes them.

    It is a matrix product, since the gradient of PyTorch's own pooling is not deterministic on a GPU.
    """
    rows, columns = (_in_cell(side, cells, features.device) for side in features.shape[-2:])
    inside = torch.kron(rows, columns)
    sums = features.flatten(2) @ inside.mT.to(features.dtype)
    return (sums / inside.sum(1)).to(sums.dtype).reshape(*features.shape[:2], cells, cells)


def _in_cell(side: int, cells: int, device: torch.device) -> Float[Tensor, "{cells} {side}"]:
    """One where a position lies in a cell; neighbouring cells overlap where the side is no multiple of them."""
    cell, position = torch.arange(cells, device=device)[:, None], torch.arange(side, device=device)
    return ((position >= cell * side // cells) & (position * cells < (cell + 1) * side)).float()


def pad_to_stride(
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


@torch.no_grad()
def he_normal(layer: nn.Module) -> None:
    """Draw a convolution's weights with variance 2 / N for N incoming values per output; leave other layers alone.

    For plain networks under ReLU, which nothing else keeps in scale (He et al. 2015).
    """
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return
    incoming = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
    if isinstance(layer, nn.ConvTranspose2d):
        incoming = max(layer.in_channels // layer.groups, incoming // (layer.stride[0] * layer.stride[1]))
    layer.weight.normal_(std=(2 / incoming) ** 0.5)
    if layer.bias is not None:
        layer.bias.zero_()

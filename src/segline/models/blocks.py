"""Blocks that several architectures share."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ConvBNReLU(nn.Sequential):
    """A padded 3x3 convolution, batch normalisation and ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each with batch normalisation and ReLU: the block of both sides of a U-Net."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(ConvBNReLU(channels_in, channels_out), ConvBNReLU(channels_out, channels_out))


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that uses its running statistics in training where a channel has a single value.

    The pooled features of a single image are such a case: they have no variance to divide by.
    """

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return features of the same shape."""
        if features.shape[0] * features.shape[2] * features.shape[3] > 1:
            return super().forward(features)
        return F.batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class Conv1x1BNReLU(nn.Sequential):
    """A 1x1 convolution, batch normalisation that accepts a single value per channel, and ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel_size=1, bias=False),
            BatchNorm(channels_out),
            nn.ReLU(inplace=True),
        )


def runs_on_cpu(features: Tensor) -> bool:
    """Return whether a rearranged convolution pays off: on a CPU, and not while a graph is exported.

    An exported graph keeps the textbook form, for which GPU libraries are fast as well.
    """
    return features.device.type == "cpu" and not torch.compiler.is_exporting()


class PyramidPooling(nn.Module):
    """Features and their averages over grids of 1, 2, 3 and 6 cells a side (Zhao et al. 2017, section 3.2).

    A 1x1 convolution reduces the averages of each grid to a quarter of the channels; they are upsampled bilinearly.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.units = nn.ModuleDict({str(side): Conv1x1BNReLU(channels, channels // 4) for side in (1, 2, 3, 6)})

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2*c h w"]:
        """Return the features concatenated with the upsampled averages of the four grids."""
        pooled = (unit(adaptive_avg_pool(features, int(side))) for side, unit in self.units.items())
        size = features.shape[-2:]
        upsampled = (F.interpolate(means, size=size, mode="bilinear", align_corners=False) for means in pooled)
        return torch.cat([features, *upsampled], dim=1)


def adaptive_avg_pool(
    features: Float[Tensor, "b c h w"], output_size: int
) -> Float[Tensor, "b c {output_size} {output_size}"]:
    """Return the averages over a square grid of cells, equal to those of PyTorch's adaptive average pooling.

    They are computed as a matrix product, since the gradient of PyTorch's own pooling is not deterministic on a GPU.
    """
    rows, columns = (_cell_masks(side, output_size, features.device) for side in features.shape[-2:])
    masks = torch.kron(rows, columns)
    sums = features.flatten(2) @ masks.mT.to(features.dtype)
    return (sums / masks.sum(1)).to(sums.dtype).reshape(*features.shape[:2], output_size, output_size)


def _cell_masks(side: int, cells: int, device: torch.device) -> Float[Tensor, "{cells} {side}"]:
    """Return one where a position lies in a cell, else zero.

    Neighbouring cells overlap where the side is not a multiple of their number.
    """
    cell, position = torch.arange(cells, device=device)[:, None], torch.arange(side, device=device)
    return ((position >= cell * side // cells) & (position * cells < (cell + 1) * side)).float()


def pad_to_stride(
    network: Callable[[Tensor], Tensor], images: Float[Tensor, "b c h w"], stride: int, *, align_corners: bool = False
) -> Float[Tensor, "b k h w"]:
    """Run a network on images of any size: pad them below and right to a multiple of its stride, crop the result.

    A side is padded to at least two features, so that batch normalisation has several values per channel for one image.
    With ``align_corners`` it is padded to one pixel more than a multiple: the last feature then lies on the last pixel.
    """
    height, width = images.shape[-2:]
    extra = int(align_corners)
    below, right = (
        max((2 - extra) * stride, -((extra - side) // stride) * stride) + extra - side for side in (height, width)
    )
    padded = F.pad(images, (0, right, 0, below)) if below or right else images
    return network(padded)[..., :height, :width]


def upsample(features: Float[Tensor, "b c h w"], factor: int, *, align_corners: bool) -> Float[Tensor, "b c t u"]:
    """Enlarge features bilinearly to the size of what they were computed from with the stride ``factor``.

    A strided layer with an odd kernel centres feature i on position factor * i. With ``align_corners`` a side n becomes
    factor * (n - 1) + 1 and each feature lies there. Otherwise it becomes factor * n, and each feature lies in the
    middle of a square, (factor - 1) / 2 positions below and right of where it was computed.
    """
    if not align_corners:
        return F.interpolate(features, scale_factor=factor, mode="bilinear", align_corners=False)
    height, width = ((side - 1) * factor + 1 for side in features.shape[-2:])
    return F.interpolate(features, size=(height, width), mode="bilinear", align_corners=True)


def concat_skip(deep: Float[Tensor, "b d h w"], skip: Float[Tensor, "b s h w"]) -> Float[Tensor, "b d+s h w"]:
    """Concatenate upsampled features with the encoder's features of the same size."""
    return torch.cat([deep, skip], dim=1)


@torch.no_grad()
def he_normal(layer: nn.Module) -> None:
    """Initialise a convolution's weights with variance 2 / N for N inputs per output; leave other layers alone.

    Networks with ReLU and without normalisation need it to keep the signal's scale (He et al. 2015).
    """
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return
    fan_in = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
    if isinstance(layer, nn.ConvTranspose2d):
        fan_in = max(layer.in_channels // layer.groups, fan_in // (layer.stride[0] * layer.stride[1]))
    layer.weight.normal_(std=(2 / fan_in) ** 0.5)
    if layer.bias is not None:
        layer.bias.zero_()

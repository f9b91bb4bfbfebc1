"""U-Net as published (Seed S1 7.3; Ronneberger et al. 2015).

It has unpadded 3x3 convolutions with ReLU and without batch normalisation, 2x2 max-pooling, 2x2 transposed
convolutions, skips that are cropped and concatenated, a 1x1 head, and dropout after the two deepest blocks; weights are
drawn with variance 2 / N for N inputs. The output is 92 px smaller on every side than the input (572 to 388), so the
image is padded with its reflection, and in evaluation a larger image is predicted in overlapping tiles, with the same
result as in one pass.

The paper does not say which blocks have dropout; the choice follows the network that its authors released.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from segline.config.fields import Range, Unit
from segline.models.blocks import concat_skip, he_normal


class UNetValid(nn.Module):
    """U-Net with valid convolutions, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w)."""

    def __init__(
        self,
        classes: int,
        *,
        width: Annotated[int, Range(1, 512), "channels of the first block, doubled by each further one"] = 64,
        depth: Annotated[int, Range(1, 6), "number of poolings"] = 4,
        tile: Annotated[
            int,
            Range(68, 16384),
            Unit("px"),
            "side of a tile's logits in evaluation, rounded down to 4 more than a multiple of 2**depth",
        ] = 388,
    ) -> None:
        super().__init__()
        self.network = ValidNetwork(classes, width, depth)
        self.stride = 2**depth
        self.margin = 6 * self.stride - 4
        self.tile_step = (tile - 4) // self.stride * self.stride

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        height, width = images.shape[-2:]
        padded_height, padded_width = (
            4 + -(-max(side - 4, 0) // self.stride) * self.stride for side in (height, width)
        )
        padded = reflect_pad(images, self.margin, padded_height + 2 * self.margin, padded_width + 2 * self.margin)
        strips = (
            [self._tile(padded, row, column) for column in self._tile_spans(padded_width)]
            for row in self._tile_spans(padded_height)
        )
        return torch.cat([torch.cat(strip, dim=-1) for strip in strips], dim=-2)[..., :height, :width]

    def _tile_spans(self, side: int) -> list[tuple[int, int, int]]:
        """Return the start, side and kept side of each tile along one axis; tiles start on the grid of the poolings."""
        step = side if self.training else self.tile_step
        spans = []
        for start in range(0, max(side - 4, 1), step):
            remaining = side - start
            spans.append((start, min(step + 4, remaining), remaining if remaining <= step + 4 else step))
        return spans

    def _tile(
        self, padded: Float[Tensor, "b 3 h w"], row: tuple[int, int, int], column: tuple[int, int, int]
    ) -> Float[Tensor, "b k t u"]:
        (top, height, kept_height), (left, width, kept_width) = row, column
        window = padded[..., top : top + height + 2 * self.margin, left : left + width + 2 * self.margin]
        return self.network(window)[..., :kept_height, :kept_width]


class ValidNetwork(nn.Module):
    """The network of the paper's figure 1, which returns the logits of the inner part of its input.

    An input side has 2**depth * n + 4 * (2**depth - 1) px with n at least 8; the logits have 2 * (6 * 2**depth - 4) px
    less.
    """

    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(depth + 1)]
        encoder = list(map(valid_double_conv, [3, *channels[:-1]], channels))
        for encode in encoder[-2:]:
            encode.append(nn.Dropout(0.5))
        self.encoder = nn.ModuleList(encoder)
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(deep, skip, kernel_size=2, stride=2)
            for deep, skip in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.decoder = nn.ModuleList(valid_double_conv(2 * skip, skip) for skip in channels[-2::-1])
        self.head = nn.Conv2d(width, classes, kernel_size=1)
        self.apply(he_normal)

    def forward(self, features: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k t u"]:
        """Return the logits of the inner pixels."""
        *encoder, bridge = self.encoder
        skips = []
        for encode in encoder:
            skips.append(encode(features))
            features = F.max_pool2d(skips[-1], kernel_size=2)
        features = bridge(features)
        for upsample, decode in zip(self.upsample, self.decoder, strict=True):
            features = upsample(features)
            features = decode(concat_skip(features, center_crop(skips.pop(), features)))
        return self.head(features)


def valid_double_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return two unpadded 3x3 convolutions, each followed by ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_out, channels_out, kernel_size=3),
        nn.ReLU(inplace=True),
    )


def center_crop(skip: Float[Tensor, "b c h w"], features: Float[Tensor, "b d t u"]) -> Float[Tensor, "b c t u"]:
    """Return the centre of the skip, in the size of the features."""
    height, width = features.shape[-2:]
    top, left = (skip.shape[-2] - height) // 2, (skip.shape[-1] - width) // 2
    return skip[..., top : top + height, left : left + width]


def reflect_pad(
    images: Float[Tensor, "b 3 h w"], margin: int, height: int, width: int
) -> Float[Tensor, "b 3 {height} {width}"]:
    """Pad images by as many reflections as needed; their top left corner lands at (margin, margin)."""
    for axis, side in ((-2, height), (-1, width)):
        images = images.index_select(axis, reflect_indices(images.shape[axis], margin, side).to(images.device))
    return images


def reflect_indices(side: int, margin: int, total: int) -> Int64[Tensor, " {total}"]:
    """Return which of ``side`` pixels is at each position of the padded side; the outermost ones are not repeated."""
    period = max(2 * (side - 1), 1)
    position = torch.arange(-margin, total - margin) % period
    return torch.minimum(position, period - position)

"""U-Net as published (Seed S1 7.3; Ronneberger et al. 2015).

Unpadded 3x3 convolutions with ReLU and without batch normalisation, 2x2 max-pooling, 2x2 transposed convolutions,
skips cropped and concatenated, a 1x1 head; dropout after the two deepest blocks; weights drawn with variance 2 / N for
N incoming values. The network returns 92 px less on every side than it sees (572 to 388), so the image is mirrored at
its border, and in evaluation a larger one is done in overlapping tiles, which give what one pass would give.

The paper leaves open which blocks have dropout; these are those of the network its authors released.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from segline.config.fields import Range, Unit
from segline.models.blocks import he_normal, join


class UNetValid(nn.Module):
    """U-Net of valid convolutions: images (b, 3, h, w) to logits (b, classes, h, w), any size."""

    def __init__(
        self,
        classes: int,
        *,
        width: Annotated[int, Range(1, 512), "channels of the first block, doubled by each further one"] = 64,
        depth: Annotated[int, Range(1, 6), "poolings"] = 4,
        tile: Annotated[
            int,
            Range(68, 16384),
            Unit("px"),
            "side of a tile's logits in evaluation; made 4 more than a multiple of 2**depth, to the next below",
        ] = 388,
    ) -> None:
        super().__init__()
        self.network = ValidNetwork(classes, width, depth)
        self.stride = 2**depth
        self.margin = 6 * self.stride - 4
        self.step = (tile - 4) // self.stride * self.stride

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Logits of the input's size."""
        height, width = images.shape[-2:]
        tall, wide = (4 + -(-max(side - 4, 0) // self.stride) * self.stride for side in (height, width))
        mirrored = mirror(images, self.margin, tall + 2 * self.margin, wide + 2 * self.margin)
        strips = ([self._tile(mirrored, row, column) for column in self._spans(wide)] for row in self._spans(tall))
        return torch.cat([torch.cat(strip, dim=-1) for strip in strips], dim=-2)[..., :height, :width]

    def _spans(self, side: int) -> list[tuple[int, int, int]]:
        """Start, side and kept side of the tiles along one axis; tiles start on the grid of the poolings."""
        step = side if self.training else self.step
        spans = []
        for start in range(0, max(side - 4, 1), step):
            left = side - start
            spans.append((start, min(step + 4, left), left if left <= step + 4 else step))
        return spans

    def _tile(
        self, mirrored: Float[Tensor, "b 3 h w"], row: tuple[int, int, int], column: tuple[int, int, int]
    ) -> Float[Tensor, "b k t u"]:
        (top, height, kept_height), (left, width, kept_width) = row, column
        seen = mirrored[..., top : top + height + 2 * self.margin, left : left + width + 2 * self.margin]
        return self.network(seen)[..., :kept_height, :kept_width]


class ValidNetwork(nn.Module):
    """Figure 1 of the paper: the logits of the inner part of what it is given.

    Inputs have 2**depth * n + 4 * (2**depth - 1) px a side, n from 8 on; the logits have 2 * (6 * 2**depth - 4) less.
    """

    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(depth + 1)]
        encoder = list(map(block, [3, *channels[:-1]], channels))
        for encode in encoder[-2:]:
            encode.append(nn.Dropout(0.5))
        self.encoder = nn.ModuleList(encoder)
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(deep, skip, kernel_size=2, stride=2)
            for deep, skip in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.decoder = nn.ModuleList(block(2 * skip, skip) for skip in channels[-2::-1])
        self.head = nn.Conv2d(width, classes, kernel_size=1)
        self.apply(he_normal)

    def forward(self, features: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k t u"]:
        """Logits of the inner pixels."""
        *encoder, bottom = self.encoder
        skips = []
        for encode in encoder:
            skips.append(encode(features))
            features = F.max_pool2d(skips[-1], kernel_size=2)
        features = bottom(features)
        for upsample, decode in zip(self.upsample, self.decoder, strict=True):
            features = upsample(features)
            features = decode(join(features, inner(skips.pop(), features)))
        return self.head(features)


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    """Two unpadded 3x3 convolutions, each with ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_out, channels_out, kernel_size=3),
        nn.ReLU(inplace=True),
    )


def inner(skip: Float[Tensor, "b c h w"], features: Float[Tensor, "b d t u"]) -> Float[Tensor, "b c t u"]:
    """The middle of the skip, as large as the features."""
    height, width = features.shape[-2:]
    top, left = (skip.shape[-2] - height) // 2, (skip.shape[-1] - width) // 2
    return skip[..., top : top + height, left : left + width]


def mirror(
    images: Float[Tensor, "b 3 h w"], margin: int, height: int, width: int
) -> Float[Tensor, "b 3 {height} {width}"]:
    """The image between its mirror images, as often as it takes; its corner lands at (margin, margin)."""
    for axis, side in ((-2, height), (-1, width)):
        images = images.index_select(axis, reflection(images.shape[axis], margin, side).to(images.device))
    return images


def reflection(side: int, margin: int, total: int) -> Int64[Tensor, " {total}"]:
    """Which of ``side`` pixels stands at each place; the outermost pixels are not repeated."""
    period = max(2 * (side - 1), 1)
    place = torch.arange(-margin, total - margin) % period
    return torch.minimum(place, period - place)

"""U-Net from scratch, padded (Seed S3, "The U-Net architecture"; Ronneberger et al. 2015).

It has encoder blocks of two 3x3 convolutions with 2x2 max-pooling, a bridge, decoder blocks of a 2x2 transposed
convolution, the skip and two convolutions, and a 1x1 head. It differs from the paper in its padded convolutions, which
give the output the input's size, and in batch normalisation before every ReLU.
"""

from typing import Annotated

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import Range
from segline.models.blocks import DoubleConv, concat_skip, pad_to_stride


class UNet(nn.Module):
    """U-Net, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w)."""

    def __init__(
        self,
        classes: int,
        *,
        width: Annotated[int, Range(1, 512), "channels of the first block, doubled by each further one"] = 64,
        depth: Annotated[int, Range(1, 6), "number of poolings"] = 4,
    ) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(map(DoubleConv, [3, *channels[:-2]], channels[:-1]))
        self.bridge = DoubleConv(channels[-2], channels[-1])
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(deep, skip, kernel_size=2, stride=2)
            for deep, skip in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.decoder = nn.ModuleList(DoubleConv(2 * skip, skip) for skip in channels[-2::-1])
        self.head = nn.Conv2d(width, classes, kernel_size=1)
        self.stride = 2**depth

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        return pad_to_stride(self._segment, images, self.stride)

    def _segment(self, features: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        skips = []
        for encode in self.encoder:
            skips.append(encode(features))
            features = F.max_pool2d(skips[-1], kernel_size=2)
        features = self.bridge(features)
        for upsample, decode in zip(self.upsample, self.decoder, strict=True):
            features = decode(concat_skip(upsample(features), skips.pop()))
        return self.head(features)

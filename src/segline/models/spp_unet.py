"""Spatial pyramid pooling with the upsampling of a U-Net (Seed S0, section 4.4.3 and figure 4).

It is ``spp`` on an undilated ResNet-101, with five upsampling steps instead of one: each doubles the size bilinearly,
concatenates the encoder's features of that size and applies two 3x3 convolutions with batch normalisation and ReLU. The
seed does not give the decoder's channels; here they mirror the encoder's. The head is a 1x1 convolution.
"""

from typing import Annotated

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import Pretrained, Range
from segline.models.blocks import ConvBNReLU, DoubleConv, PyramidPooling, concat_skip, pad_to_stride
from segline.models.encoders import backbone_features

WIDTH = 512
DECODER = (512, 256, 64, 64, 32)
STRIDE = 32


class SppUNet(nn.Module):
    """SPP-UNet, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w)."""

    def __init__(
        self,
        classes: int,
        *,
        dropout: Annotated[float, Range(0, 0.9), "share of the fused features that is dropped in training"] = 0.1,
        pretrained: Pretrained = False,
    ) -> None:
        super().__init__()
        self.encoder, (*shallow, deepest) = backbone_features("resnet101", pretrained=pretrained)
        self.pool = PyramidPooling(deepest)
        self.fuse = ConvBNReLU(2 * deepest, WIDTH)
        self.dropout = nn.Dropout(dropout)
        deep_channels, skip_channels = [WIDTH, *DECODER[:-1]], [*reversed(shallow), 0]
        self.decoder = nn.ModuleList(
            DoubleConv(deep + skip, out) for deep, skip, out in zip(deep_channels, skip_channels, DECODER, strict=True)
        )
        self.head = nn.Conv2d(DECODER[-1], classes, kernel_size=1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        *skips, features = self.encoder(images)
        features = self.dropout(self.fuse(self.pool(features)))
        for decode in self.decoder:
            features = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
            features = decode(concat_skip(features, skips.pop()) if skips else features)
        return self.head(features)

"""Spatial pyramid pooling on a dilated ResNet-101 (Seed S0, section 4.4.3; Zhao et al. 2017, section 3).

The seed cites He et al. 2014 for the idea and pools at rates 1, 2, 3 and 6, the pyramid pooling module of PSPNet. The
features are concatenated with their averages over the four grids; a 3x3 convolution to 512 channels with batch
normalisation and ReLU, dropout, a 1x1 classifier and one upsampling step follow. Batch normalisation follows the
pooling to one cell too. It differs from PSPNet in having no auxiliary loss, and in the first block of each dilated
stage: at output stride 8 all 3x3 convolutions of PSPNet's two last stages have the rates 2 and 4; here that of the
first block, which had the stride, keeps the rate of the stage before, 1 and 2, as in ``drn_a_18``. Weights fit both.
"""

from typing import Annotated, Literal

from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import AlignCorners, Pretrained, Range
from segline.models.blocks import ConvBNReLU, PyramidPooling, pad_to_stride, upsample
from segline.models.encoders import backbone_features

WIDTH = 512


class Spp(nn.Module):
    """SPP, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w)."""

    def __init__(
        self,
        classes: int,
        *,
        output_stride: Annotated[Literal[8, 16, 32], "stride of the features; below 32 the encoder is dilated"] = 8,
        dropout: Annotated[float, Range(0, 0.9), "share of the fused features that is dropped in training"] = 0.1,
        align_corners: AlignCorners = True,
        pretrained: Pretrained = False,
    ) -> None:
        super().__init__()
        self.encoder, channels = backbone_features("resnet101", pretrained=pretrained, output_stride=output_stride)
        self.pool = PyramidPooling(channels[-1])
        self.fuse = ConvBNReLU(2 * channels[-1], WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(WIDTH, classes, kernel_size=1)
        self.stride, self.align_corners = output_stride, align_corners

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        return pad_to_stride(self._segment, images, self.stride, align_corners=self.align_corners)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        features = self.encoder(images)[-1]
        fused = self.fuse(self.pool(features))
        logits = self.head(self.dropout(fused))
        return upsample(logits, self.stride, align_corners=self.align_corners)

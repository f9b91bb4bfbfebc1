"""Dilated residual network DRN-A-18 (Seed S0, section 5.3; Yu et al. 2017, sections 2 and 4).

It is a ResNet-18 whose last two stages have dilations of 2 and 4 instead of a stride, so that the features have stride
8; a 1x1 classifier maps them to logits, which are upsampled. The first convolution of each of the two stages, which had
the stride, keeps the dilation of the stage before it. The features at every fourth position therefore equal the
features of the plain ResNet-18, whose weights fit unchanged.
"""

from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import AlignCorners, Pretrained
from segline.models.blocks import pad_to_stride, upsample
from segline.models.encoders import backbone_features

STRIDE = 8


class DrnA18(nn.Module):
    """DRN-A-18, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w)."""

    def __init__(self, classes: int, *, align_corners: AlignCorners = True, pretrained: Pretrained = False) -> None:
        super().__init__()
        self.encoder, channels = backbone_features("resnet18", pretrained=pretrained, output_stride=STRIDE)
        self.align_corners = align_corners
        self.head = nn.Conv2d(channels[-1], classes, kernel_size=1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE, align_corners=self.align_corners)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        features = self.encoder(images)[-1]
        return upsample(self.head(features), STRIDE, align_corners=self.align_corners)

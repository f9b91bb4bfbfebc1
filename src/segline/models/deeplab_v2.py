"""DeepLab v2 (Seed S1, section 7.4; Chen et al. 2017, "DeepLab", TPAMI).

The encoder is a ResNet-101 of output stride 8, whose last two stages are dilated by 2 and 4. ASPP-L follows: four 3x3
convolutions with rates 6, 12, 18 and 24 map straight to the classes and are summed; the logits are upsampled. It
differs from the paper in that it sees images at one scale instead of taking the maximum over three, and in the ResNet,
whose blocks have their stride in the 3x3 convolution: where the stride was removed, the convolution keeps the rate of
the stage before. ``align_corners`` enlarges the logits as Caffe does, see :func:`segline.models.blocks.upsample`. The
fully connected CRF is a step of inference.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import AlignCorners, Pretrained
from segline.models.blocks import pad_to_stride, upsample
from segline.models.encoders import backbone_features

STRIDE = 8
RATES = (6, 12, 18, 24)


class DeepLabV2(nn.Module):
    """DeepLab v2, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w)."""

    def __init__(self, classes: int, *, align_corners: AlignCorners = True, pretrained: Pretrained = False) -> None:
        super().__init__()
        self.encoder, channels = backbone_features("resnet101", pretrained=pretrained, output_stride=STRIDE)
        self.align_corners = align_corners
        self.aspp = nn.ModuleList(
            nn.Conv2d(channels[-1], classes, kernel_size=3, padding=rate, dilation=rate) for rate in RATES
        )

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE, align_corners=self.align_corners)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        features = self.encoder(images)[-1]
        logits = torch.stack([classify(features) for classify in self.aspp]).sum(0)
        return upsample(logits, STRIDE, align_corners=self.align_corners)

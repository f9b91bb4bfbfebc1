"""U-Net on a ResNet-34 encoder (Seed S3, "ResNet34 backbone based UNet").

The encoder's features at strides 2 to 32; the decoder doubles the size by nearest neighbour, joins the skip
and applies two convolution units, with 256, 128, 64, 32 and 16 channels; a 3x3 head.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segline.fields import Pretrained
from segline.models.blocks import DoubleConv, join, on_padded
from segline.models.encoders import pyramid

DECODER = (256, 128, 64, 32, 16)
STRIDE = 32


class UNetResNet34(nn.Module):
    """ResNet-34 U-Net: images (b, 3, h, w) to logits (b, classes, h, w), any size."""

    def __init__(
        self,
        classes: int,
        *,
        pretrained: Pretrained = False,
    ) -> None:
        super().__init__()
        self.encoder, channels = pyramid("resnet34", pretrained=pretrained)
        deep = [channels[-1], *DECODER[:-1]]
        skips = [*channels[-2::-1], 0]
        self.decoder = nn.ModuleList(
            DoubleConv(below + skip, out) for below, skip, out in zip(deep, skips, DECODER, strict=True)
        )
        self.head = nn.Conv2d(DECODER[-1], classes, kernel_size=3, padding=1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Logits of the input's size."""
        return on_padded(self._segment, images, STRIDE)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        *skips, features = self.encoder(images)
        for decode in self.decoder:
            features = F.interpolate(features, scale_factor=2, mode="nearest")
            features = decode(join(features, skips.pop()) if skips else features)
        return self.head(features)

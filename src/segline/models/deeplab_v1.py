"""DeepLab v1, the LargeFOV network (Seed S1 7.4; Chen et al. 2015).

VGG-16 with 3x3 poolings, the last two of stride 1; to keep their view, conv5 has dilation 2. fc6 is 3x3 with dilation
12, so it spans 25 places of the grid of stride 8, as VGG's 7x7 at dilation 4 would, and fc6 and fc7 have 1024
channels. The logits of stride 8 are enlarged bilinearly. The dense CRF that the paper applies to them is a later step
of the line, not part of the network.

Poolings of stride 2 and padding 1 see place i at pixel 8 i. So the image is padded to 8 n + 1 pixels (the paper crops
321) and the n + 1 logits are interpolated corner to corner. Pretrained, fc6 and fc7 start from every third tap and
every fourth channel of VGG's. The released network averages 3x3 places before fc6; the paper does not, nor does this.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import Pretrained
from segline.models.blocks import he_normal
from segline.models.encoders import backbone

POOL_STRIDES = (2, 2, 2, 1, 1)
STRIDE = 8
CHANNELS = 1024


class DeepLabV1(nn.Module):
    """DeepLab-LargeFOV: images (b, 3, h, w) to logits (b, classes, h, w), any size."""

    def __init__(self, classes: int, *, pretrained: Pretrained = False) -> None:
        super().__init__()
        vgg: Any = backbone("vgg16", pretrained=pretrained)
        self.features = dilated(vgg.features)
        self.fc6 = nn.Conv2d(512, CHANNELS, kernel_size=3, padding=12, dilation=12)
        self.fc7 = nn.Conv2d(CHANNELS, CHANNELS, kernel_size=1)
        for source, layer in ((vgg.pre_logits.fc1, self.fc6), (vgg.pre_logits.fc2, self.fc7)):
            if pretrained:
                decimate(source, layer)
            else:
                he_normal(layer)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Conv2d(CHANNELS, classes, kernel_size=1)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Logits of the input's size."""
        height, width = images.shape[-2:]
        below, right = (-(side - 1) % STRIDE for side in (height, width))
        logits = self.coarse(F.pad(images, (0, right, 0, below)))
        logits = F.interpolate(logits, size=(height + below, width + right), mode="bilinear", align_corners=True)
        return logits[..., :height, :width]

    def coarse(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h//8+1 w//8+1"]:
        """Logits of every eighth pixel of an image of 8 n + 1 px a side, what the CRF of the paper starts from."""
        features = self.features(images)
        for layer in (self.fc6, self.fc7):
            features = self.dropout(F.relu(layer(features), inplace=True))
        return self.head(features)


def dilated(features: nn.Sequential) -> nn.Sequential:
    """VGG-16's features with output stride 8 instead of 32."""
    poolings = [at for at, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    for at, stride in zip(poolings, POOL_STRIDES, strict=True):
        features[at] = nn.MaxPool2d(kernel_size=3, stride=stride, padding=1)
    for layer in features[poolings[3] :]:
        if isinstance(layer, nn.Conv2d):
            layer.dilation = layer.padding = (2, 2)
    return features


@torch.no_grad()
def decimate(source: nn.Conv2d, target: nn.Conv2d) -> None:
    """Fill a convolution with evenly spaced channels and taps of a larger one."""
    out, into = (-(-have // want) for have, want in zip(source.weight.shape[:2], target.weight.shape[:2], strict=True))
    tap = max(1, (source.kernel_size[0] - 1) // max(1, target.kernel_size[0] - 1))
    assert source.bias is not None
    assert target.bias is not None
    target.weight.copy_(source.weight[::out, ::into, ::tap, ::tap])
    target.bias.copy_(source.bias[::out])

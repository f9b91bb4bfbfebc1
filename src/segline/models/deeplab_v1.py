"""DeepLab v1, the LargeFOV network (Seed S1 7.4; Chen et al. 2015).

The network is VGG-16 with 3x3 poolings, of which the last two have stride 1; conv5 has dilation 2 to keep its field of
view. fc6 is 3x3 with dilation 12, so it spans 25 positions of the grid of stride 8, as VGG's 7x7 at dilation 4 would;
fc6 and fc7 have 1024 channels. The logits of stride 8 are upsampled bilinearly. The dense CRF that the paper applies
to them is a later step of the line, not part of the network.

With poolings of stride 2 and padding 1, position i of the grid is centred at pixel 8 i. The image is therefore padded
to 8 n + 1 pixels (the paper crops 321), and the n + 1 logits are interpolated with aligned corners. Pretrained fc6 and
fc7 start from every third tap and every fourth channel of VGG's layers. The released network averages 3x3 positions
before fc6; neither the paper nor this network does.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models import VGG
from torch import Tensor, nn

from segline.config.fields import Pretrained
from segline.models.blocks import he_normal
from segline.models.encoders import backbone

POOL_STRIDES = (2, 2, 2, 1, 1)
STRIDE = 8
CHANNELS = 1024


class DeepLabV1(nn.Module):
    """DeepLab-LargeFOV, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w)."""

    def __init__(self, classes: int, *, pretrained: Pretrained = False) -> None:
        super().__init__()
        vgg: VGG = backbone("vgg16", pretrained=pretrained)
        self.features = dilate_vgg(vgg.features)
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
        """Return logits of the input's size."""
        height, width = images.shape[-2:]
        below, right = (-(side - 1) % STRIDE for side in (height, width))
        logits = self.coarse(F.pad(images, (0, right, 0, below)))
        logits = F.interpolate(logits, size=(height + below, width + right), mode="bilinear", align_corners=True)
        return logits[..., :height, :width]

    def coarse(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h//8+1 w//8+1"]:
        """Return the logits of every eighth pixel of an image of 8 n + 1 px a side, the input of the paper's CRF."""
        features = self.features(images)
        for layer in (self.fc6, self.fc7):
            features = self.dropout(F.relu(layer(features), inplace=True))
        return self.head(features)


def dilate_vgg(features: nn.Sequential) -> nn.Sequential:
    """Change VGG-16's features in place from output stride 32 to 8, and return them."""
    pool_indices = [index for index, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    for index, stride in zip(pool_indices, POOL_STRIDES, strict=True):
        features[index] = nn.MaxPool2d(kernel_size=3, stride=stride, padding=1)
    for layer in features[pool_indices[3] :]:
        if isinstance(layer, nn.Conv2d):
            layer.dilation = layer.padding = (2, 2)
    return features


@torch.no_grad()
def decimate(source: nn.Conv2d, target: nn.Conv2d) -> None:
    """Copy evenly spaced channels and kernel taps of a larger convolution into a smaller one."""
    out_step, in_step = (
        -(-large // small) for large, small in zip(source.weight.shape[:2], target.weight.shape[:2], strict=True)
    )
    tap_step = max(1, (source.kernel_size[0] - 1) // max(1, target.kernel_size[0] - 1))
    assert source.bias is not None
    assert target.bias is not None
    target.weight.copy_(source.weight[::out_step, ::in_step, ::tap_step, ::tap_step])
    target.bias.copy_(source.bias[::out_step])

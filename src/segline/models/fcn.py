"""FCN-32s, FCN-16s and FCN-8s (Seed S1 7.2; Long et al. 2015, Shelhamer et al. 2017).

VGG-16 whose first two fully connected layers became the convolutions fc6 (7x7) and fc7 (1x1), each with ReLU and
dropout; 1x1 scores of fc7 and, for the finer two, of pool4 and pool3, summed on the way up through transposed
convolutions that start as bilinear interpolation, one kernel per class. Scores start at zero, as in the paper, so the
encoder learns from the second step on. It differs from the paper in that

* fc6 is padded by 3 instead of the image by 100 px: the grid stays aligned and nothing is cropped in between;
* the last upsampling is learnt too, where the paper keeps it bilinear;
* each net trains at once, where the 2015 paper starts the finer from the coarser one.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import Pretrained
from segline.models.blocks import pad_to_stride
from segline.models.encoders import backbone

POOL3, POOL4 = 17, 24
"""Layers of timm's VGG-16 up to these poolings, with them."""
CHANNELS = {"pool3": 256, "pool4": 512, "fc7": 4096}
STRIDE = 32


class FCN32s(nn.Module):
    """FCN-32s: images (b, 3, h, w) to logits (b, classes, h, w), any size."""

    def __init__(self, classes: int, *, pretrained: Pretrained = False) -> None:
        super().__init__()
        self.encoder = ConvolutionalVGG16(pretrained)
        self.score_fc7 = score("fc7", classes)
        self.from_32 = upsampling(classes, factor=32)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        _, _, fc7 = self.encoder(images)
        return self.from_32(self.score_fc7(fc7))


class FCN16s(nn.Module):
    """FCN-16s: images (b, 3, h, w) to logits (b, classes, h, w), any size."""

    def __init__(self, classes: int, *, pretrained: Pretrained = False) -> None:
        super().__init__()
        self.encoder = ConvolutionalVGG16(pretrained)
        self.score_fc7 = score("fc7", classes)
        self.score_pool4 = score("pool4", classes)
        self.from_32 = upsampling(classes, factor=2)
        self.from_16 = upsampling(classes, factor=16)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        _, pool4, fc7 = self.encoder(images)
        sixteenth = self.from_32(self.score_fc7(fc7)) + self.score_pool4(pool4)
        return self.from_16(sixteenth)


class FCN8s(nn.Module):
    """FCN-8s: images (b, 3, h, w) to logits (b, classes, h, w), any size."""

    def __init__(self, classes: int, *, pretrained: Pretrained = False) -> None:
        super().__init__()
        self.encoder = ConvolutionalVGG16(pretrained)
        self.score_fc7 = score("fc7", classes)
        self.score_pool4 = score("pool4", classes)
        self.score_pool3 = score("pool3", classes)
        self.from_32 = upsampling(classes, factor=2)
        self.from_16 = upsampling(classes, factor=2)
        self.from_8 = upsampling(classes, factor=8)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        pool3, pool4, fc7 = self.encoder(images)
        sixteenth = self.from_32(self.score_fc7(fc7)) + self.score_pool4(pool4)
        eighth = self.from_16(sixteenth) + self.score_pool3(pool3)
        return self.from_8(eighth)


class ConvolutionalVGG16(nn.Module):
    """VGG-16 without its last layer, its fully connected layers applied at every place of a grid of stride 32."""

    def __init__(self, pretrained: bool | str) -> None:
        super().__init__()
        vgg: Any = backbone("vgg16", pretrained=pretrained)
        self.to_pool3 = vgg.features[:POOL3]
        self.to_pool4 = vgg.features[POOL3:POOL4]
        self.to_pool5 = vgg.features[POOL4:]
        self.fc6, self.fc7 = vgg.pre_logits.fc1, vgg.pre_logits.fc2
        self.dropout = nn.Dropout(0.5)

    def forward(
        self, images: Float[Tensor, "b 3 h w"]
    ) -> tuple[
        Float[Tensor, "b 256 h//8 w//8"], Float[Tensor, "b 512 h//16 w//16"], Float[Tensor, "b 4096 h//32 w//32"]
    ]:
        """The features pool3, pool4 and fc7."""
        pool3 = self.to_pool3(images)
        pool4 = self.to_pool4(pool3)
        pool5 = self.to_pool5(pool4)
        fc6 = self.dropout(F.relu(at_every_place(self.fc6, pool5), inplace=True))
        fc7 = self.dropout(F.relu(self.fc7(fc6), inplace=True))
        return pool3, pool4, fc7


def at_every_place(layer: nn.Conv2d, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
    """A 7x7 convolution padded by 3, computed as the fully connected layer of each place's surroundings.

    On a CPU the gradient of PyTorch's convolution of this size takes a minute, this a fraction of a second.
    """
    surroundings = F.unfold(features, kernel_size=7, padding=3).transpose(1, 2)
    values = F.linear(surroundings, layer.weight.flatten(1), layer.bias)
    return values.transpose(1, 2).reshape(features.shape[0], -1, *features.shape[-2:])


def score(features: str, classes: int) -> nn.Conv2d:
    """The 1x1 layer that rates every class, zero at first."""
    layer = nn.Conv2d(CHANNELS[features], classes, kernel_size=1)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def upsampling(classes: int, *, factor: int) -> nn.ConvTranspose2d:
    """A learnable enlargement of every class by itself, bilinear at first."""
    layer = nn.ConvTranspose2d(
        classes, classes, kernel_size=2 * factor, stride=factor, padding=factor // 2, groups=classes, bias=False
    )
    distance = (torch.arange(2 * factor) + 0.5 - factor).abs() / factor
    nearness = 1 - distance
    with torch.no_grad():
        layer.weight.copy_(nearness[:, None] * nearness)
    return layer

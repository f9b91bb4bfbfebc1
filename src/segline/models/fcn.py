"""FCN-32s, FCN-16s and FCN-8s (Seed S1 7.2; Long et al. 2015, Shelhamer et al. 2017).

The encoder is a VGG-16 whose first two fully connected layers are the convolutions fc6 (7x7) and fc7 (1x1), each with
ReLU and dropout. 1x1 convolutions score fc7 and, for the finer two networks, pool4 and pool3. The scores are upsampled
by transposed convolutions that start as bilinear interpolation, one kernel per class, and summed. Scores start at zero,
as in the paper, so the encoder learns from the second step on. The networks differ from the paper in that

* fc6 is padded by 3 instead of the image by 100 px: the grid stays aligned and nothing is cropped in between;
* the last upsampling is learnt too, where the paper keeps it bilinear;
* each network is trained in one stage, "at once", where the 2015 paper initialises a finer one from the coarser one.

The networks that were released with the 2017 paper for training at once multiply pool4 by 0.01 and pool3 by 0.0001
before they are scored, so that the streams have about the same norm; ``scale_skips`` does so.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models import VGG
from torch import Tensor, nn

from segline.config.fields import Pretrained, ScaleSkips
from segline.models.blocks import pad_to_stride
from segline.models.encoders import backbone

POOL3, POOL4 = 17, 24
"""The numbers of layers of timm's VGG-16 up to and including these poolings."""
CHANNELS = {"pool3": 256, "pool4": 512, "fc7": 4096}
STRIDE = 32
SKIP_SCALES = {"pool4": 0.01, "pool3": 0.0001}
"""The factors of the released at-once networks (voc-fcn8s-atonce in shelhamer/fcn.berkeleyvision.org)."""
NO_SCALES = dict.fromkeys(SKIP_SCALES, 1.0)


class FCN32s(nn.Module):
    """FCN-32s, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w)."""

    def __init__(self, classes: int, *, pretrained: Pretrained = False) -> None:
        super().__init__()
        self.encoder = ConvolutionalVGG16(pretrained)
        self.score_fc7 = score_layer("fc7", classes)
        self.from_32 = upsample_layer(classes, factor=32)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        _, _, fc7 = self.encoder(images)
        return self.from_32(self.score_fc7(fc7))


class FCN16s(nn.Module):
    """FCN-16s, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w)."""

    def __init__(
        self,
        classes: int,
        *,
        scale_skips: ScaleSkips = False,
        pretrained: Pretrained = False,
    ) -> None:
        super().__init__()
        self.scales = SKIP_SCALES if scale_skips else NO_SCALES
        self.encoder = ConvolutionalVGG16(pretrained)
        self.score_fc7 = score_layer("fc7", classes)
        self.score_pool4 = score_layer("pool4", classes)
        self.from_32 = upsample_layer(classes, factor=2)
        self.from_16 = upsample_layer(classes, factor=16)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        _, pool4, fc7 = self.encoder(images)
        sixteenth = self.from_32(self.score_fc7(fc7)) + self.score_pool4(self.scales["pool4"] * pool4)
        return self.from_16(sixteenth)


class FCN8s(nn.Module):
    """FCN-8s, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w)."""

    def __init__(
        self,
        classes: int,
        *,
        scale_skips: ScaleSkips = False,
        pretrained: Pretrained = False,
    ) -> None:
        super().__init__()
        self.scales = SKIP_SCALES if scale_skips else NO_SCALES
        self.encoder = ConvolutionalVGG16(pretrained)
        self.score_fc7 = score_layer("fc7", classes)
        self.score_pool4 = score_layer("pool4", classes)
        self.score_pool3 = score_layer("pool3", classes)
        self.from_32 = upsample_layer(classes, factor=2)
        self.from_16 = upsample_layer(classes, factor=2)
        self.from_8 = upsample_layer(classes, factor=8)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        pool3, pool4, fc7 = self.encoder(images)
        sixteenth = self.from_32(self.score_fc7(fc7)) + self.score_pool4(self.scales["pool4"] * pool4)
        eighth = self.from_16(sixteenth) + self.score_pool3(self.scales["pool3"] * pool3)
        return self.from_8(eighth)


class ConvolutionalVGG16(nn.Module):
    """VGG-16 without its classifier, its fully connected layers applied at every position of a grid of stride 32."""

    def __init__(self, pretrained: bool | str) -> None:
        super().__init__()
        vgg: VGG = backbone("vgg16", pretrained=pretrained)
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
        """Return the features pool3, pool4 and fc7."""
        pool3 = self.to_pool3(images)
        pool4 = self.to_pool4(pool3)
        pool5 = self.to_pool5(pool4)
        fc6 = self.dropout(F.relu(conv7x7_as_linear(self.fc6, pool5), inplace=True))
        fc7 = self.dropout(F.relu(self.fc7(fc6), inplace=True))
        return pool3, pool4, fc7


def conv7x7_as_linear(layer: nn.Conv2d, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
    """Apply a 7x7 convolution padded by 3, computed as a fully connected layer on the patch around each position.

    On a CPU the gradient of PyTorch's convolution of this size takes a minute, and this a fraction of a second.
    """
    patches = F.unfold(features, kernel_size=7, padding=3).transpose(1, 2)
    values = F.linear(patches, layer.weight.flatten(1), layer.bias)
    return values.transpose(1, 2).reshape(features.shape[0], -1, *features.shape[-2:])


def score_layer(features: str, classes: int) -> nn.Conv2d:
    """Return a 1x1 convolution that scores every class, initialised with zeros."""
    layer = nn.Conv2d(CHANNELS[features], classes, kernel_size=1)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def upsample_layer(classes: int, *, factor: int) -> nn.ConvTranspose2d:
    """Return a learnable upsampling of each class by itself, initialised as bilinear interpolation."""
    layer = nn.ConvTranspose2d(
        classes, classes, kernel_size=2 * factor, stride=factor, padding=factor // 2, groups=classes, bias=False
    )
    distance = (torch.arange(2 * factor) + 0.5 - factor).abs() / factor
    weights = 1 - distance
    with torch.no_grad():
        layer.weight.copy_(weights[:, None] * weights)
    return layer

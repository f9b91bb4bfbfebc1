"""U-Net on a ResNet-34 encoder (Seed S3, "ResNet34 backbone based UNet").

The encoder's features at strides 2 to 32; the decoder doubles the size by nearest neighbour, joins the skip
and applies two convolution units, with 256, 128, 64, 32 and 16 channels; a 3x3 head.

On a CPU the doubled features of the fine levels are not made: see :func:`convolve_doubled`.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import Pretrained
from segline.models.blocks import DoubleConv, join, on_plain_cpu, pad_to_stride
from segline.models.encoders import backbone_features

DECODER = (256, 128, 64, 32, 16)
STRIDE = 32
MOST_DOUBLED = 128
"""Channels of the features that :func:`convolve_doubled` pays for; the kernel that it makes grows with their square."""


class UNetResNet34(nn.Module):
    """ResNet-34 U-Net: images (b, 3, h, w) to logits (b, classes, h, w), any size."""

    def __init__(
        self,
        classes: int,
        *,
        pretrained: Pretrained = False,
    ) -> None:
        super().__init__()
        self.encoder, channels = backbone_features("resnet34", pretrained=pretrained)
        deep = [channels[-1], *DECODER[:-1]]
        skips = [*channels[-2::-1], 0]
        self.decoder = nn.ModuleList(
            DoubleConv(below + skip, out) for below, skip, out in zip(deep, skips, DECODER, strict=True)
        )
        self.head = nn.Conv2d(DECODER[-1], classes, kernel_size=3, padding=1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        *skips, features = self.encoder(images)
        for first, second in map(nn.Module.children, self.decoder):
            features = second(_double(first, features, skips.pop() if skips else None))
        return self.head(features)


def _double(unit: nn.Module, deep: Float[Tensor, "b d h w"], skip: Tensor | None) -> Float[Tensor, "b c 2*h 2*w"]:
    """Double the features, join the skip, apply a convolution unit."""
    convolution, norm, activation = unit.children()
    if on_plain_cpu(deep) and deep.shape[1] <= MOST_DOUBLED:
        convolved = convolve_doubled(deep, skip, convolution.get_parameter("weight"))
    else:
        doubled = F.interpolate(deep, scale_factor=2, mode="nearest")
        convolved = convolution(doubled if skip is None else join(doubled, skip))
    return activation(norm(convolved))


def convolve_doubled(
    deep: Float[Tensor, "b d h w"], skip: Float[Tensor, "b s 2*h 2*w"] | None, kernel: Float[Tensor, "c _ 3 3"]
) -> Float[Tensor, "b c 2*h 2*w"]:
    """A padded 3x3 convolution of features doubled by nearest neighbour beside a skip, with 4/9 of the products.

    Of nine values under the kernel at most four differ. So each of the deep features adds the kernel four times,
    shifted by one: a 4x4 kernel of a transposed convolution of stride 2.
    """
    channels = deep.shape[1]
    turned = kernel[:, :channels].flip(2, 3).transpose(0, 1)
    wide = F.pad(turned, (0, 1)) + F.pad(turned, (1, 0))
    spread = F.pad(wide, (0, 0, 0, 1)) + F.pad(wide, (0, 0, 1, 0))
    convolved = F.conv_transpose2d(deep, spread, stride=2, padding=1)
    return convolved if skip is None else convolved + F.conv2d(skip, kernel[:, channels:], padding=1)

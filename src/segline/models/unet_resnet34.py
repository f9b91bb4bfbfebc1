"""U-Net on a ResNet-34 encoder (Seed S3, "ResNet34 backbone based UNet").

The encoder gives features at strides 2 to 32. Each step of the decoder doubles the size by nearest neighbour,
concatenates the skip and applies two 3x3 convolutions with batch normalisation and ReLU, with 256, 128, 64, 32 and 16
channels. The head is a 3x3 convolution.

On a CPU the upsampled features of the fine levels are never stored: see :func:`convolve_upsampled`.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import Pretrained
from segline.models.blocks import DoubleConv, concat_skip, pad_to_stride, runs_on_cpu
from segline.models.encoders import backbone_features

DECODER = (256, 128, 64, 32, 16)
STRIDE = 32
MAX_UPSAMPLED_CHANNELS = 128
"""The most channels for which :func:`convolve_upsampled` pays off; its kernel grows with their square."""


class UNetResNet34(nn.Module):
    """ResNet-34 U-Net, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w)."""

    def __init__(
        self,
        classes: int,
        *,
        pretrained: Pretrained = False,
    ) -> None:
        super().__init__()
        self.encoder, channels = backbone_features("resnet34", pretrained=pretrained)
        deep_channels = [channels[-1], *DECODER[:-1]]
        skip_channels = [*channels[-2::-1], 0]
        self.decoder = nn.ModuleList(
            DoubleConv(deep + skip, out) for deep, skip, out in zip(deep_channels, skip_channels, DECODER, strict=True)
        )
        self.head = nn.Conv2d(DECODER[-1], classes, kernel_size=3, padding=1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        *skips, features = self.encoder(images)
        for first, second in map(nn.Module.children, self.decoder):
            features = second(_upsample_and_convolve(first, features, skips.pop() if skips else None))
        return self.head(features)


def _upsample_and_convolve(
    unit: nn.Module, deep: Float[Tensor, "b d h w"], skip: Tensor | None
) -> Float[Tensor, "b c 2*h 2*w"]:
    """Double the size of the features, concatenate the skip, apply a convolution, batch normalisation and ReLU."""
    convolution, norm, activation = unit.children()
    if runs_on_cpu(deep) and deep.shape[1] <= MAX_UPSAMPLED_CHANNELS:
        convolved = convolve_upsampled(deep, skip, convolution.get_parameter("weight"))
    else:
        upsampled = F.interpolate(deep, scale_factor=2, mode="nearest")
        convolved = convolution(upsampled if skip is None else concat_skip(upsampled, skip))
    return activation(norm(convolved))


def convolve_upsampled(
    deep: Float[Tensor, "b d h w"], skip: Float[Tensor, "b s 2*h 2*w"] | None, kernel: Float[Tensor, "c _ 3 3"]
) -> Float[Tensor, "b c 2*h 2*w"]:
    """Apply a padded 3x3 convolution to features doubled by nearest neighbour and a skip, with 4/9 of the products.

    At most four of the nine values under the kernel differ. Each of the deep features therefore adds the kernel four
    times, shifted by one, which is the 4x4 kernel of a transposed convolution of stride 2.
    """
    channels = deep.shape[1]
    flipped = kernel[:, :channels].flip(2, 3).transpose(0, 1)
    kernel_3x4 = F.pad(flipped, (0, 1)) + F.pad(flipped, (1, 0))
    kernel_4x4 = F.pad(kernel_3x4, (0, 0, 0, 1)) + F.pad(kernel_3x4, (0, 0, 1, 0))
    convolved = F.conv_transpose2d(deep, kernel_4x4, stride=2, padding=1)
    return convolved if skip is None else convolved + F.conv2d(skip, kernel[:, channels:], padding=1)

"""U-Net, from scratch (Seed S3, "The U-Net architecture"; Ronneberger et al. 2015) or on an encoder of timm.

From scratch it has encoder blocks of two 3x3 convolutions with 2x2 max-pooling, a bridge, decoder blocks of an
upsampling, the skip and two convolutions, and a 1x1 head. It differs from the paper in its padded convolutions, which
give the output the input's size, and in batch normalisation before every ReLU.

With an encoder the features of the image are those of a timm model, and the decoder has 256, 128, 64, 32 and 16
channels at the strides 16 to 1. It has no skip at a stride for which the encoder gives no features.
"""

from typing import Annotated, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import Pretrained, Range
from segline.models.blocks import DoubleConv, concat_skip, pad_to_stride
from segline.models.encoders import backbone_pyramid


class UNet(nn.Module):
    """U-Net, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w).

    Raises:
        TrainingError: There is no such encoder, its features do not fit, or its weights are not available.
    """

    def __init__(
        self,
        classes: int,
        *,
        encoder: Annotated[
            str,
            "a timm model that computes the features, such as tf_efficientnet_lite0; empty for the U-Net from scratch",
        ] = "",
        upsampling: Annotated[
            Literal["transposed", "bilinear"],
            "how the decoder doubles the size: a transposed 2x2 convolution, or bilinear and a 3x3 convolution, which "
            "leaves no checkerboard (S1, 7.7.3)",
        ] = "transposed",
        width: Annotated[
            int, Range(1, 512), "channels of the first block, doubled by each further one; without encoder"
        ] = 64,
        depth: Annotated[int, Range(1, 6), "number of poolings; without encoder"] = 4,
        pretrained: Pretrained = False,
    ) -> None:
        super().__init__()
        if encoder:
            self.encoder, pyramid = backbone_pyramid(encoder, pretrained=pretrained)
            self.bridge = None
        else:
            pyramid = [(width * 2**level, 2**level) for level in range(depth + 1)]
            channels = [channels for channels, _ in pyramid]
            self.encoder = nn.ModuleList(map(DoubleConv, [3, *channels[:-2]], channels[:-1]))
            self.bridge = DoubleConv(channels[-2], channels[-1])
        deep, self.stride = pyramid[-1]
        skips = {stride: channels for channels, stride in pyramid}
        strides = [2**level for level in reversed(range(self.stride.bit_length() - 1))]
        outputs = [16 * stride if encoder else skips[stride] for stride in strides]
        self.has_skip = [stride in skips for stride in strides]
        self.upsample = nn.ModuleList(map(UPSAMPLING[upsampling], [deep, *outputs[:-1]], outputs))
        self.decoder = nn.ModuleList(
            DoubleConv(out + skips.get(stride, 0), out) for stride, out in zip(strides, outputs, strict=True)
        )
        self.head = nn.Conv2d(outputs[-1], classes, kernel_size=1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        return pad_to_stride(self._segment, images, self.stride)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        *skips, features = self._pooled_features(images) if self.bridge else self.encoder(images)
        for upsample, decode, has_skip in zip(self.upsample, self.decoder, self.has_skip, strict=True):
            features = upsample(features)
            features = decode(concat_skip(features, skips.pop()) if has_skip else features)
        return self.head(features)

    def _pooled_features(self, features: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Return the features of every level of the U-Net from scratch, the fine ones first."""
        levels = []
        for encode in self.encoder.children():
            levels.append(encode(features))
            features = F.max_pool2d(levels[-1], kernel_size=2)
        assert self.bridge is not None
        return [*levels, self.bridge(features)]


def _transposed(channels_in: int, channels_out: int) -> nn.Module:
    return nn.ConvTranspose2d(channels_in, channels_out, kernel_size=2, stride=2)


def _bilinear(channels_in: int, channels_out: int) -> nn.Module:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1)
    )


UPSAMPLING = {"transposed": _transposed, "bilinear": _bilinear}
